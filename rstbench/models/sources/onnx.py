"""Convert ONNX graphs to torch modules, so that they have gradients: `onnx:FILE`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadFile, BadRequest, first_line
from ...evidence.trial import ModelInfo
from ...limits import check_file
from ..checkpoints.formats import describe_file
from ..wrapper import EvalModel, wrap
from .axis_order import checked_module, input_layout
from .input_shape import parse_shape

OLDEST, OPSET = 13, 17  # the first and the last that onnx2torch 1.5 knows all of
OUTDATED = 9  # below, it lacks operators that did not change since
DTYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


def onnx(id: str, shape: str | Sequence[int] | None = None, layout: str = "") -> EvalModel:
    """Load `onnx:FILE`: one input of images, one output (n, classes).

    The input is (n, channels, height, width), (n, height, width, channels) or flat; layout, nchw or nhwc,
    says so where the file does not. A graph for one image at a time is run image by image. onnx2torch
    converts it, and its logits are compared with ONNX Runtime's on random images, together and alone. Raises
    BadRequest where an operator has no counterpart, where logits differ, depend on the batch or are random,
    and without the packages of the extra `onnx`.
    """
    path, what = Path(id).expanduser(), f"onnx:{id}"
    if not path.is_file():
        raise BadFile(f"no file {path}")
    check_file(path)
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
        if other := describe_file(path):
            raise BadFile(f"{path} is {other}") from None
        raise BadFile(f"{path} is no whole ONNX file: {first_line(error)}") from None
    _refuse_training(graph, what)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors, which it raises too
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    except Exception as error:  # of ONNX Runtime, which has no class of errors of its own
        dtypes = _other_dtypes(library, graph) if "implementation" in str(error) else ""
        helps = f"; its numbers are {dtypes}: export it in float32 (net.float())" if dtypes else ""
        raise BadRequest(f"{what} does not run in ONNX Runtime: {first_line(error)}{helps}") from None
    images, dtype = _image_input(session, what)
    sizes = [size if isinstance(size, int) and size > 0 else None for size in images.shape]
    image_layout = input_layout(sizes, parse_shape(shape, what), layout, dtype, what)
    try:
        with warnings.catch_warnings(action="ignore"):  # onnx2torch's about its own use of torch
            module: nn.Module = onnx2torch.convert(_supported(library, graph)).eval()
    except Exception as error:  # of the converter of versions, and of onnx2torch
        raise BadRequest(f"onnx:{id} cannot become a torch module: {first_line(error)}") from None
    runtime = _runtime(session, images.name)
    module, notes = checked_module(module.requires_grad_(False), image_layout, what, runtime)
    return wrap(module, ModelInfo(what, "external"), files=[path], notes=notes)


def _refuse_training(graph: Any, what: str) -> None:
    """Raise BadRequest for batch norms in training mode, which use the statistics of the batch.

    Until version 14 of the operators these are the ones with more than one output.
    """
    for node in graph.graph.node:
        trains = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if node.op_type == "BatchNormalization" and (trains or len(list(filter(None, node.output))) > 1):
            raise BadRequest(
                f"{what} was exported in training mode, where batch norm uses the statistics of the batch; "
                f"export it after net.eval()"
            )


def _other_dtypes(library: Any, graph: Any) -> str:
    """List the floating-point dtypes of the constants other than float32."""
    dtypes = {library.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in graph.graph.initializer}
    return ", ".join(sorted(str(dtype) for dtype in dtypes if "float" in str(dtype) and dtype != "float32"))


def _image_input(session: Any, what: str) -> tuple[Any, torch.dtype]:
    """Return the only input and its dtype. Raises BadRequest for graphs with other inputs or outputs."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        names = ", ".join(value.name for value in (inputs if len(inputs) != 1 else outputs))
        kind = "inputs" if len(inputs) != 1 else "outputs"
        raise BadRequest(
            f"{what} wants one input and one output, and has the {kind} {names}; export it with images in "
            f"and logits out alone"
        )
    (images,) = inputs
    if images.type not in DTYPES:
        dtype = images.type.removeprefix("tensor(").removesuffix(")")
        raise BadRequest(
            f"{what} takes {dtype} numbers, and images are float32 in [0, 1]; export the network without its "
            f"conversion, for that has no gradient"
        )
    return images, DTYPES[images.type]


def _runtime(session: Any, name: str) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: x.contiguous().numpy()})
        return torch.from_numpy(logits)

    return run


def _supported(library: Any, graph: Any) -> Any:
    """Convert newer and much older operators to those that onnx2torch knows."""
    # `allowzero` says that a 0 in a shape means 0; it has no bearing on shapes without one.
    shapes = {tensor.name: library.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Reshape" and node.input[1] in shapes and shapes[node.input[1]].all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    newest = max(opset.version for opset in graph.opset_import if not opset.domain)
    if OUTDATED <= newest <= OPSET:
        return graph
    return library.version_converter.convert_version(graph, OPSET if newest > OPSET else OLDEST)
