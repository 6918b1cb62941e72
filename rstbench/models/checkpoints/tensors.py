"""Read the values of a checkpoint as ordinary tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import BadFile
from ...limits import check_size
from ...parsing import DEEPEST

MOST_VALUES = 10**6
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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


def check_content(content: Any, path: Path) -> None:
    """Raise BadFile for a file whose values hold themselves, are nested deep or by the million, or whose
    tensors are larger than they were stored: one number may be repeated to any shape."""
    size, values, level = 0, 0, [content]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Tensor):
                size += value.numel() * value.element_size()
            elif isinstance(value, np.ndarray):
                size += value.size * value.itemsize
            elif isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, list | tuple | set | frozenset):
                inner += value
            if len(inner) + values > MOST_VALUES:
                raise BadFile(f"{path} holds more than {MOST_VALUES} values; save its state dict alone")
        values, level = values + len(inner), inner
        if not level:
            return check_size(path, size, "what its tensors hold")
    raise BadFile(f"{path} is nested deeper than {DEEPEST}; save its state dict alone")


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
    if not value.is_floating_point() and value.dtype not in WHOLE and not value.is_complex():
        raise BadFile(f"{path}: {name} is of {value.dtype}; save numbers of float32")
    if value.is_complex():
        raise BadFile(f"{path}: {name} is complex; save real weights")
    plain = value.detach()
    return plain if plain.layout == torch.strided else plain.to_dense()
