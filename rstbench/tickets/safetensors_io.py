"""Read and write this tool's safetensors files: tensors, one JSON text about them, and their digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import BadFile
from ..files import write_whole
from ..limits import check_file
from ..parsing import parse_json
from .init import weights_digest

# What a file raises that holds other values than this tool writes.
DAMAGE = (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def write_safetensors(
    path: Path, format: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write the file whole or not at all; equal contents give equal bytes."""
    from safetensors.torch import save

    text = json.dumps({**about, "format": format, "content": weights_digest(tensors)}, sort_keys=True)
    # One metadata key only: safetensors writes several in no fixed order.
    write_whole(path, save(dict(tensors), {"rstbench": text}))


def read_safetensors(path: Path, format: str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (the JSON, the tensors) of a file of this format. Raises BadFile."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadFile(f"no {kind} file {path}")
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = parse_json(metadata.get("rstbench", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(f"{path} is no whole safetensors file: {error}") from None
    other_format = about.get("format") if isinstance(about, dict) else None
    if other_format != format:
        raise BadFile(
            f"{path} holds no {kind} of this tool" + (f", but {other_format}" if other_format else "")
        )
    if about.get("content") != weights_digest(tensors):
        raise BadFile(f"{path} is damaged: its content does not match its digest")
    return about, tensors
