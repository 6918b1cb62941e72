"""ONNX graphs as torch modules that can be attacked: `onnx:FILE`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import BadFile, BadRequest
from ...harness.trial import Card
from ..entry import Entry, enter

OPSET = 17  # the last that onnx2torch 1.5 knows all of
AGREE = 1e-3  # largest difference of logits from ONNX Runtime's, relative to the largest logit


def onnx(id: str, shape: tuple[int, int, int] | None = None) -> Entry:
    """`onnx:FILE`: one input (n, channels, height, width), one output (n, classes).

    Converted by onnx2torch, and compared with ONNX Runtime on random images of the data's shape. Raises
    BadRequest where an operator has no counterpart, where the two disagree, and without the packages of the
    extra `onnx`.
    """
    path = Path(id).expanduser()
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
        session = onnxruntime.InferenceSession(graph.SerializeToString())
    except Exception as error:  # protobuf and the checker have no class of errors in common
        raise BadFile(f"{path} is no whole ONNX file: {_line(error)}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # onnx2torch's about its own use of torch
            module: nn.Module = onnx2torch.convert(_older(library, graph)).eval()
    except Exception as error:  # of the converter of versions, and of onnx2torch
        raise BadRequest(f"onnx:{id} cannot become a torch module: {_line(error)}") from None
    _compare(session, module, shape, id)
    return enter(module.requires_grad_(False), Card(f"onnx:{id}", "external"), files=[path])


def _older(library: Any, graph: Any) -> Any:
    """The graph in operators of `OPSET`, where it is newer."""
    # `allowzero` says that a 0 in a shape means 0; it has no bearing on shapes without one.
    shapes = {one.name: library.numpy_helper.to_array(one) for one in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Reshape" and node.input[1] in shapes and shapes[node.input[1]].all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    newest = max(one.version for one in graph.opset_import if not one.domain)
    return library.version_converter.convert_version(graph, OPSET) if newest > OPSET else graph


def _compare(session: Any, module: nn.Module, shape: tuple[int, int, int] | None, id: str) -> None:
    """Raises BadRequest where the module's logits are not the graph's, or cannot be had."""
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise BadRequest(f"onnx:{id} wants one input and one output")
    given = session.get_inputs()[0]
    sizes = [size if isinstance(size, int) else None for size in given.shape]
    own = shape or tuple(sizes[1:])
    if len(own) != 3 or None in own:
        raise BadRequest(f"onnx:{id}: the shape of an image is not in the file; add --data")
    if sizes[0] not in (None, 1):
        raise BadRequest(f"onnx:{id} takes {sizes[0]} images at once only; export it with a free batch size")
    x = torch.rand((1, *own), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    try:
        (wanted,) = session.run(None, {given.name: x.numpy()})
        with torch.no_grad():
            found = module(x)
        apart = float((found - torch.from_numpy(wanted)).abs().max())
    except Exception as error:  # of whatever either meets in the graph
        raise BadRequest(f"onnx:{id} does not take images {tuple(own)}: {_line(error)}") from None
    if not apart <= AGREE * max(1.0, float(abs(wanted).max())):
        raise BadRequest(f"onnx:{id} computes other logits as a torch module: {apart:g} apart")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:200]
