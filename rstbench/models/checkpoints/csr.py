"""State dicts made smaller: a weight that is mostly 0 as its other values and their places, row by row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import BadFile

PARTS = ("values", "crow_indices", "col_indices", "shape")
_SMALL = 2**15 - 1  # columns that 16 bits can name
_NAMES = 1000  # bytes that three more tensors cost in a file's directory, about


def compressed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with each weight whose compressed form is smaller as NAME.values (kept,), NAME.crow_indices
    (rows + 1,), NAME.col_indices (kept,) and NAME.shape: the CSR form of the weight as a matrix of its first
    dimension. Other tensors stay."""
    small: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = _parts(tensor) if tensor.dim() > 1 else {}
        if parts and sum(map(_bytes, parts.values())) + _NAMES < _bytes(tensor):
            small |= {f"{name}.{part}": value for part, value in parts.items()}
        else:
            small[name] = tensor
    return small


def expanded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The dense state again. Raises BadFile where the parts of a weight do not fit together."""
    full: dict[str, Tensor] = {}
    for name, tensor in state.items():
        weight, _, part = name.rpartition(".")
        if part not in PARTS or f"{weight}.crow_indices" not in state:
            full[name] = tensor
        elif weight not in full:
            full[weight] = _dense(weight, {part: state.get(f"{weight}.{part}") for part in PARTS})
    return full


def _parts(tensor: Tensor) -> dict[str, Tensor]:
    matrix = tensor.flatten(1)
    rows, columns = matrix.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(matrix)).cumsum(0)
    return {
        "values": matrix[rows, columns],
        "crow_indices": torch.cat([counts.new_zeros(1), counts]).int(),
        "col_indices": columns.short() if matrix.shape[1] <= _SMALL else columns.int(),
        "shape": torch.tensor(tensor.shape),
    }


def _dense(name: str, parts: Mapping[str, Tensor | None]) -> Tensor:
    values, starts, columns, shape = (parts[part] for part in PARTS)
    try:
        assert values is not None and starts is not None and columns is not None and shape is not None  # noqa: PT018
        full = torch.zeros(shape.tolist(), dtype=values.dtype)
        places = columns.long()
        assert int(starts[0]) == 0
        assert int(starts[-1]) == len(values) == len(places)
        assert len(starts) == len(full) + 1
        assert not len(places) or int(places.min()) >= 0
        rows = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.long().diff())
        full.flatten(1)[rows, places] = values
    except (AssertionError, RuntimeError, IndexError) as error:
        raise BadFile(f"{name} is compressed, and its parts do not fit together: {error}") from None
    return full


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
