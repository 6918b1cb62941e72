"""ONNX graphs as torch modules that can be attacked: `onnx:FILE`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadFile, BadRequest
from ...evidence.trial import ModelInfo
from ..checkpoints.formats import kind_of
from ..wrapper import EvalModel, wrap
from .axis_order import checked, layout_of, line
from .input_shape import image_shape

OLDEST, OPSET = 13, 17  # the first and the last that onnx2torch 1.5 knows all of
OUTDATED = 9  # below, it lacks operators that did not change since
NUMBERS = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


def onnx(id: str, shape: str | Sequence[int] | None = None, layout: str = "") -> EvalModel:
    """`onnx:FILE`: one input of images, one output (n, classes).

    Images go in as (n, channels, height, width), (n, height, width, channels) or flattened, as the file's
    input asks; layout, nchw or nhwc, says so where the file does not. A graph for one image at a time is
    asked image by image. Converted by onnx2torch, and compared with ONNX Runtime on random images, together
    and alone. Raises BadRequest where an operator has no counterpart, where the two disagree, where answers
    hang on the batch or on chance, and without the packages of the extra `onnx`.
    """
    path, what = Path(id).expanduser(), f"onnx:{id}"
    if not path.is_file():
        raise BadFile(f"no file {path}")
    try:
        import onnx as library
        import onnx2torch
        import onnxruntime
    except ImportError as error:
        raise BadRequest(
            f"onnx:{id} needs {error.name}; install the extra: pip install 'rstbench[onnx]'"
        ) from None
    try:
        graph = library.load(path)
        library.checker.check_model(graph)
    except Exception as error:  # protobuf and the checker have no class of errors in common
        if other := kind_of(path):
            raise BadFile(f"{path} is {other}") from None
        raise BadFile(f"{path} is no whole ONNX file: {line(error)}") from None
    _refuse_training(graph, what)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors, which it raises too
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    except Exception as error:  # of ONNX Runtime, which has no class of errors of its own
        rare = _precisions(library, graph) if "implementation" in str(error) else ""
        helps = f"; its numbers are {rare}: export it in float32 (net.float())" if rare else ""
        raise BadRequest(f"{what} does not run in ONNX Runtime: {line(error)}{helps}") from None
    given, dtype = _input(session, what)
    sizes = [size if isinstance(size, int) and size > 0 else None for size in given.shape]
    wanted = layout_of(sizes, image_shape(shape, what), layout, dtype, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # onnx2torch's about its own use of torch
            module: nn.Module = onnx2torch.convert(_known(library, graph)).eval()
    except Exception as error:  # of the converter of versions, and of onnx2torch
        raise BadRequest(f"onnx:{id} cannot become a torch module: {line(error)}") from None
    module, notes = checked(module.requires_grad_(False), wanted, what, _runtime(session, given.name))
    return wrap(module, ModelInfo(what, "external"), files=[path], notes=notes)


def _refuse_training(graph: Any, what: str) -> None:
    """Raises BadRequest for batch norms that take their statistics from the batch: in the words of ONNX those
    of the training mode, which until its version 14 had more outputs than one."""
    for node in graph.graph.node:
        trains = any(one.name == "training_mode" and one.i for one in node.attribute)
        if node.op_type == "BatchNormalization" and (trains or len(list(filter(None, node.output))) > 1):
            raise BadRequest(
                f"{what} was exported in training mode, where batch norm uses the statistics of the batch; "
                f"export it after net.eval()"
            )


def _precisions(library: Any, graph: Any) -> str:
    """The types of floating-point numbers of the constants, other than float32."""
    kinds = {library.helper.tensor_dtype_to_np_dtype(one.data_type) for one in graph.graph.initializer}
    return ", ".join(sorted(str(kind) for kind in kinds if "float" in str(kind) and kind != "float32"))


def _input(session: Any, what: str) -> tuple[Any, torch.dtype]:
    """(the input, the type of its numbers). Raises BadRequest for graphs that take or give something else."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        names = ", ".join(one.name for one in (inputs if len(inputs) != 1 else outputs))
        kind = "inputs" if len(inputs) != 1 else "outputs"
        raise BadRequest(
            f"{what} wants one input and one output, and has the {kind} {names}; export it with images in "
            f"and logits out alone"
        )
    (given,) = inputs
    if given.type not in NUMBERS:
        kind = given.type.removeprefix("tensor(").removesuffix(")")
        raise BadRequest(
            f"{what} takes {kind} numbers, and images are float32 in [0, 1]; export the network without its "
            f"conversion, for that has no gradient"
        )
    return given, NUMBERS[given.type]


def _runtime(session: Any, name: str) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: x.contiguous().numpy()})
        return torch.from_numpy(logits)

    return run


def _known(library: Any, graph: Any) -> Any:
    """The graph in operators that onnx2torch knows, where its own are newer or much older."""
    # `allowzero` says that a 0 in a shape means 0; it has no bearing on shapes without one.
    shapes = {one.name: library.numpy_helper.to_array(one) for one in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Reshape" and node.input[1] in shapes and shapes[node.input[1]].all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    newest = max(one.version for one in graph.opset_import if not one.domain)
    if OUTDATED <= newest <= OPSET:
        return graph
    return library.version_converter.convert_version(graph, OPSET if newest > OPSET else OLDEST)
