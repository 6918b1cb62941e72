"""`torch-export`: write a program of torch.export, which carries its own graph."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ...errors import BadRequest, first_line
from .bundle import ExportBundle, check_logits, write_file


def torch_export(bundle: ExportBundle, path: Path) -> list[Path]:
    """Write `path`, for `torch.export.load(path).module()` and any number of images, and `<path>.json`.

    Raises BadRequest where torch cannot trace the network, or the program computes other logits.
    """
    try:
        program = torch.export.export(
            bundle.module, (bundle.example,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        exported = torch.export.load(buffer).module()
        with torch.no_grad():
            logits = torch.cat([exported(image[None]) for image in bundle.example])
    except Exception as error:  # of whatever torch.export meets in a network
        raise BadRequest(f"torch.export cannot take the network: {first_line(error)}") from error
    check_logits(bundle, "the exported program", logits)
    return write_file(bundle, path, buffer.getvalue())
