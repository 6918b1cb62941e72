"""Programs of torch.export, which `export --to torch-export` writes: `torch-export:FILE`."""

from __future__ import annotations

import io
import json
import operator
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import nn

from ...errors import BadFile, BadRequest
from ...evidence.trial import ModelInfo
from ..checkpoints.formats import kind_of
from ..wrapper import EvalModel, wrap
from .axis_order import Size, checked, layout_of, line
from .input_shape import image_shape

# Records of the archive, behind its name. Nothing else is handed to torch: compiled libraries, custom objects
# and examples are left out, for reading them runs what is in them.
GRAPH, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
TENSORS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
KEPT = re.compile(
    r"data/(weights/weight|constants/tensor)_\d+|archive_format|archive_version|byteorder|\.data/\w+"
)

# What a graph may say. torch finds functions by their names, evaluates sizes as Python, and writes names into
# a program that it runs: so functions are torch's own operators, sizes are arithmetic, names are names.
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
TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
NUMBERS = {6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}  # as torch.export counts


def torch_export(id: str, shape: str | Sequence[int] | None = None, layout: str = "") -> EvalModel:
    """`torch-export:FILE`, what `torch.export.save` wrote: one input of images, one output (n, classes).

    shape, layout: as for `onnx:FILE`. `torch.export.load` unpickles parts of a file and evaluates others; it
    is given the graph and plain tensors alone here, and only a graph of torch's own operators. Raises BadFile
    for others, BadRequest for programs that take no images.
    """
    path, what = Path(id).expanduser(), f"torch-export:{id}"
    if not path.is_file():
        raise BadFile(f"no file {path}")
    archive, program = _plain(path)
    sizes, dtype = _input(program, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about what it reads
            loaded = torch.export.load(archive).module(check_guards=False)
            # An ordinary graph: the exported kind refuses to be put into eval mode, in which it always is.
            module: nn.Module = torch.fx.GraphModule(loaded, loaded.graph)
    except Exception as error:  # of whatever torch meets in a file of another version
        raise BadFile(f"{path} is no program that this torch reads: {line(error)}") from None
    wanted = layout_of(sizes, image_shape(shape, what), layout, dtype, what)
    module, notes = checked(module.requires_grad_(False).eval(), wanted, what)
    return wrap(module, ModelInfo(what, "external"), files=[path], notes=notes)


def _plain(path: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    """(the file without what would run code, its graph). Raises BadFile where that leaves no program."""
    try:
        with zipfile.ZipFile(path) as held:
            records = {name.partition("/")[2]: held.read(name) for name in held.namelist()}
        program = json.loads(records[GRAPH])
        configs = {name: json.loads(records[name]) for name in TENSORS}
        for config in configs.values():
            _check_tensors(config["config"], path)
        _strip(program)
        _check_graph(program, path)
    except BadFile:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        other = kind_of(path)
        if other and not other.endswith("torch-export:FILE"):
            raise BadFile(f"{path} is {other}") from None
        raise BadFile(
            f"{path} is no program of torch.export (or of an old version of it): {line(error)}"
        ) from None
    kept = {name: content for name, content in records.items() if KEPT.fullmatch(name)}
    kept |= {name: json.dumps(config).encode() for name, config in configs.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as plain:
        for name, content in {**kept, GRAPH: json.dumps(program).encode(), EXAMPLES: b""}.items():
            plain.writestr(f"program/{name}", content)
    buffer.seek(0)
    return buffer, program


def _check_tensors(config: dict[str, Any], path: Path) -> None:
    for name, held in config.items():
        if held["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", held["path_name"]):
            raise BadFile(f"{path}: {name} is no plain tensor, and reading it would run code")


def _strip(program: dict[str, Any]) -> None:
    """Takes away what says nothing of the answers: in whose code each step was, and checks of shapes."""
    program["guards_code"] = []
    graph = program["graph_module"]
    graph["module_call_graph"] = [call for call in graph["module_call_graph"] if not call["fqn"]]
    for node in graph["graph"]["nodes"]:
        node["metadata"] = {}


def _check_graph(program: dict[str, Any], path: Path) -> None:
    for key, text in _texts(program, ""):
        if not _harmless(key, text):
            raise BadFile(
                f"{path}: the program holds {text[:60]!r} as {key}, which is none of torch's own operators, "
                f"names and sizes; running it may run other code"
            )


def _harmless(key: str, text: str) -> bool:
    if key == "target":
        found = OPERATOR.fullmatch(text)
        known = getattr(getattr(torch.ops.aten, found[1], None), found[2], None) if found else None
        own = text in ARITHMETIC and hasattr(operator, text.partition(".")[2])
        return own or isinstance(known, torch._ops.OpOverload)
    if key == "expr_str":
        return SIZE.fullmatch(text) is not None
    if key in ("name", "as_name"):
        return NAME.fullmatch(text) is not None
    if key in ("in_spec", "out_spec"):
        trees = list(_trees(json.loads(text)[1]))
        words = " ".join(re.sub(r'[\[\]"]', "", tree["context"] or "") for tree in trees)
        return all(tree["type"] in TREES for tree in trees) and WORDS.fullmatch(words) is not None
    return WORDS.fullmatch(text) is not None


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value with the name it stands under, and the names themselves."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield "key", name
            yield from _texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)


def _trees(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec
    for child in spec["children_spec"]:
        yield from _trees(child)


def _input(program: dict[str, Any], what: str) -> tuple[list[Size], torch.dtype]:
    """(the sizes of the only input, None where they are free; the type of its numbers). Raises BadRequest for
    other programs."""
    graph = program["graph_module"]
    specs = graph["signature"]["input_specs"]
    taken = [spec["user_input"]["arg"] for spec in specs if "user_input" in spec]
    if len(taken) != 1 or "as_tensor" not in taken[0] or len(graph["graph"]["outputs"]) != 1:
        raise BadRequest(
            f"{what} wants one input and one output; export it with images in and logits out alone"
        )
    meta = graph["graph"]["tensor_values"][taken[0]["as_tensor"]["name"]]
    if meta["dtype"] not in NUMBERS:
        raise BadRequest(f"{what} takes other numbers than floating-point ones, images are float32 in [0, 1]")
    return [size.get("as_int") for size in meta["sizes"]], NUMBERS[meta["dtype"]]
