"""`torch-export`: a program of torch.export, which carries its own graph."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ...errors import BadRequest
from .bundle import ExportBundle, check, write_file


def torch_export(parcel: ExportBundle, path: Path) -> list[Path]:
    """`path`, read by `torch.export.load(path).module()` for any number of images, and `<path>.json`.

    Raises BadRequest where torch cannot trace the network, or the program computes other logits.
    """
    try:
        program = torch.export.export(
            parcel.module, (parcel.example,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        again = torch.export.load(buffer).module()
        with torch.no_grad():
            logits = torch.cat([again(image[None]) for image in parcel.example])
    except Exception as error:  # of whatever torch.export meets in a network
        raise BadRequest(f"torch.export cannot take the network: {str(error).splitlines()[0]}") from error
    check(parcel, "the exported program", logits)
    return write_file(parcel, path, buffer.getvalue())
