"""Load programs of torch.export without running code of theirs: `torch-export:FILE`."""

from __future__ import annotations

import io
import json
import logging
import operator
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import nn

from ...archives import DAMAGE, check_archive
from ...errors import BadFile, BadRequest, first_line
from ...evidence.trial import ModelInfo
from ...parsing import parse_json
from ..checkpoints.formats import describe_file
from ..wrapper import EvalModel, wrap
from .axis_order import Size, checked_module, input_layout
from .input_shape import parse_shape

# Records of the archive that torch may read. Compiled libraries, custom objects and examples are left out,
# for reading them runs code.
GRAPH, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
TENSORS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SAFE_RECORDS = re.compile(
    r"data/(weights/weight|constants/tensor)_\d+|archive_format|archive_version|byteorder|\.data/\w+"
)

# Allowed texts of a graph. torch finds functions by their names, evaluates sizes as Python, and writes names
# into a program that it runs: so functions are torch's own operators, sizes are arithmetic, names are names.
NAME = re.compile(r"[A-Za-z_]\w*|")
WORDS = re.compile(r"[\w .,:>+-]*", re.ASCII)
OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file\b)(?!__)(\w+)\.(?!__)(\w+)", re.ASCII)
ARITHMETIC = {f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem", "eq",
                                               "ne", "lt", "le", "gt", "ge", "truediv", "pow")}  # fmt: skip
SIZE = re.compile(
    r"(Symbol|Integer|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv|PythonMod|positive|integer|nonnegative|True|False"
    r"|'[su]\d+'|\d+|[ (),=*+/-])*",
    re.ASCII,
)
TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
DTYPES = {6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}  # as torch.export counts


def torch_export(id: str, shape: str | Sequence[int] | None = None, layout: str = "") -> EvalModel:
    """Load `torch-export:FILE`, written by `torch.export.save`: one input of images, one output (n, classes).

    shape, layout: as for `onnx:FILE`. `torch.export.load` unpickles parts of a file and evaluates others, so
    it gets the graph and plain tensors alone, and only a graph of torch's own operators. Raises BadFile for
    others, BadRequest for programs that take no images.
    """
    path, what = Path(id).expanduser(), f"torch-export:{id}"
    if not path.is_file():
        raise BadFile(f"no file {path}")
    archive, program = _sanitized(path)
    sizes, dtype = _image_input(program, what)
    try:
        with warnings.catch_warnings(action="ignore"), _silent():  # of torch about what it reads
            loaded = torch.export.load(archive).module(check_guards=False)
            # An ordinary graph: the exported kind refuses to be put into eval mode, in which it always is.
            module: nn.Module = torch.fx.GraphModule(loaded, loaded.graph)
    except Exception as error:  # of whatever torch meets in a file of another version
        raise BadFile(f"{path} is no program that this torch reads: {first_line(error)}") from None
    image_layout = input_layout(sizes, parse_shape(shape, what), layout, dtype, what)
    module, notes = checked_module(module.requires_grad_(False).eval(), image_layout, what)
    return wrap(module, ModelInfo(what, "external"), files=[path], notes=notes)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch from printing the traceback of an error that it raises too."""
    logger = logging.getLogger("torch.export")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _sanitized(path: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    """Return (the archive without what would run code, its graph).

    Raises BadFile where that leaves no program.
    """
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        program = parse_json(records[GRAPH])
        configs = {name: parse_json(records[name]) for name in TENSORS}
        for config in configs.values():
            _check_tensors(config["config"], path)
        _strip(program)
        _check_graph(program, path)
    except BadFile:
        raise
    except DAMAGE as error:
        other = describe_file(path)
        if other and not other.endswith("torch-export:FILE"):
            raise BadFile(f"{path} is {other}") from None
        raise BadFile(
            f"{path} is no program of torch.export (or of an old version of it): {first_line(error)}"
        ) from None
    safe = {name: content for name, content in records.items() if SAFE_RECORDS.fullmatch(name)}
    safe |= {name: json.dumps(config).encode() for name, config in configs.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {**safe, GRAPH: json.dumps(program).encode(), EXAMPLES: b""}.items():
            archive.writestr(f"program/{name}", content)
    buffer.seek(0)
    return buffer, program


def _check_tensors(config: dict[str, Any], path: Path) -> None:
    for name, entry in config.items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise BadFile(f"{path}: {name} is no plain tensor, and reading it would run code")


def _strip(program: dict[str, Any]) -> None:
    """Remove what affects no output: the origin of each step, and checks of shapes."""
    program["guards_code"] = []
    graph = program["graph_module"]
    graph["module_call_graph"] = [call for call in graph["module_call_graph"] if not call["fqn"]]
    for node in graph["graph"]["nodes"]:
        node["metadata"] = {}


def _check_graph(program: dict[str, Any], path: Path) -> None:
    for key, text in _strings(program, ""):
        if not _is_allowed(key, text):
            raise BadFile(
                f"{path}: the program holds {text[:60]!r} as {key}, which is none of torch's own operators, "
                f"names and sizes; running it may run other code"
            )


def _is_allowed(key: str, text: str) -> bool:
    if key == "target":
        match = OPERATOR.fullmatch(text)
        overload = getattr(getattr(torch.ops.aten, match[1], None), match[2], None) if match else None
        is_arithmetic = text in ARITHMETIC and hasattr(operator, text.partition(".")[2])
        return is_arithmetic or isinstance(overload, torch._ops.OpOverload)
    if key == "expr_str":
        return SIZE.fullmatch(text) is not None
    if key in ("name", "as_name"):
        return NAME.fullmatch(text) is not None
    if key in ("in_spec", "out_spec"):
        trees = list(_trees(parse_json(text)[1]))
        words = " ".join(re.sub(r'[\[\]"]', "", tree["context"] or "") for tree in trees)
        return all(tree["type"] in TREE_TYPES for tree in trees) and WORDS.fullmatch(words) is not None
    return WORDS.fullmatch(text) is not None


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, string) of every string in a JSON value, and the keys themselves."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield "key", name
            yield from _strings(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)


def _trees(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec
    for child in spec["children_spec"]:
        yield from _trees(child)


def _image_input(program: dict[str, Any], what: str) -> tuple[list[Size], torch.dtype]:
    """Return the sizes of the only input, None where they are free, and its dtype.

    Raises BadRequest for programs with other inputs or outputs.
    """
    graph = program["graph_module"]
    specs = graph["signature"]["input_specs"]
    inputs = [spec["user_input"]["arg"] for spec in specs if "user_input" in spec]
    if len(inputs) != 1 or "as_tensor" not in inputs[0] or len(graph["graph"]["outputs"]) != 1:
        raise BadRequest(
            f"{what} wants one input and one output; export it with images in and logits out alone"
        )
    meta = graph["graph"]["tensor_values"][inputs[0]["as_tensor"]["name"]]
    if meta["dtype"] not in DTYPES:
        raise BadRequest(f"{what} takes other numbers than floating-point ones, images are float32 in [0, 1]")
    return [size.get("as_int") for size in meta["sizes"]], DTYPES[meta["dtype"]]
