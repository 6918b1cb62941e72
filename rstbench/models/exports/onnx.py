"""`onnx`: write an ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ...errors import BadRequest, first_line
from .bundle import ExportBundle, check_logits, write_file

OPSET = 18  # what torch's exporter writes without conversion
INPUT, OUTPUT = "images", "logits"


def onnx(bundle: ExportBundle, path: Path) -> list[Path]:
    """Write `path` with input `images` (n, c, h, w) and output `logits` (n, classes), and `<path>.json`.

    Raises BadRequest without the packages of the extra `onnx`, or where torch cannot translate the network.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter writes with it
    except ImportError as error:
        raise BadRequest(
            f"export to ONNX needs {error.name}; install the extra: pip install 'rstbench[onnx]'"
        ) from None
    content = _onnx_graph(bundle)
    session = onnxruntime.InferenceSession(content)
    (logits,) = session.run(None, {INPUT: bundle.example.numpy()})
    check_logits(bundle, "the ONNX graph", torch.from_numpy(logits))
    return write_file(bundle, path, content)


def _onnx_graph(bundle: ExportBundle) -> bytes:
    try:
        with warnings.catch_warnings(action="ignore"):  # the exporter's about itself
            program: Any = torch.onnx.export(
                bundle.module,
                (bundle.example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                verbose=False,
            )
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # of whatever the exporter meets in a network
        raise BadRequest(f"ONNX cannot express the network: {first_line(error)}") from error
    return content
