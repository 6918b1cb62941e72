"""Values of a checkpoint as ordinary tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import BadFile


def tensors_in(node: Any) -> Iterator[Tensor]:
    """Every tensor or array below, optimizers' too."""
    if isinstance(node, Tensor | np.ndarray):
        yield (
            torch.as_tensor(node) if isinstance(node, Tensor) or node.dtype.kind in "biuf" else torch.zeros(0)
        )
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from tensors_in(value)
    elif isinstance(node, list | tuple | set):
        for value in node:
            yield from tensors_in(value)


def as_numbers(value: Any) -> Tensor | None:
    """Numbers, nested lists and arrays of them as a tensor; None for anything else."""
    try:
        return torch.as_tensor(value) if not isinstance(value, str | bytes) else None
    except (TypeError, ValueError, RuntimeError):
        return None


def as_dense(name: str, value: Tensor, path: Path) -> Tensor:
    """The tensor as ordinary numbers. Raises BadFile for quantised, complex and empty ones."""
    if value.is_meta:
        raise BadFile(f"{path}: {name} is a tensor without values (device meta); save the weights themselves")
    if value.is_quantized:
        raise BadFile(f"{path}: {name} is quantised ({value.dtype}); save the float network's state dict")
    if value.is_complex():
        raise BadFile(f"{path}: {name} is complex; save real weights")
    plain = value.detach()
    return plain if plain.layout == torch.strided else plain.to_dense()


def kind_of(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dictionary of {', '.join(map(str, list(found)[:5]))}" if found else "an empty dictionary"
    return f"a {type(found).__name__}"
