"""Read the values of a checkpoint as ordinary tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import BadFile


def iter_tensors(node: Any) -> Iterator[Tensor]:
    """Yield every tensor and array in nested containers, an optimizer's too."""
    if isinstance(node, Tensor | np.ndarray):
        yield (
            torch.as_tensor(node) if isinstance(node, Tensor) or node.dtype.kind in "biuf" else torch.zeros(0)
        )
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from iter_tensors(value)
    elif isinstance(node, list | tuple | set):
        for value in node:
            yield from iter_tensors(value)


def as_tensor(value: Any) -> Tensor | None:
    """Return numbers, nested lists and arrays of them as a tensor; None for anything else."""
    try:
        return torch.as_tensor(value) if not isinstance(value, str | bytes) else None
    except (TypeError, ValueError, RuntimeError):
        return None


def as_dense(name: str, value: Tensor, path: Path) -> Tensor:
    """Return the tensor in strided layout. Raises BadFile for quantized, complex and meta tensors."""
    if value.is_meta:
        raise BadFile(f"{path}: {name} is a tensor without values (device meta); save the weights themselves")
    if value.is_quantized:
        raise BadFile(f"{path}: {name} is quantised ({value.dtype}); save the float network's state dict")
    if value.is_complex():
        raise BadFile(f"{path}: {name} is complex; save real weights")
    plain = value.detach()
    return plain if plain.layout == torch.strided else plain.to_dense()
