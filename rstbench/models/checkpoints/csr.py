"""Sparse state dicts: weights that are mostly 0 in compressed sparse row (CSR) form."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import BadFile
from ...limits import max_file_size

PARTS = ("values", "crow_indices", "col_indices", "shape")
_MAX_INT16 = 2**15 - 1
_HEADER_BYTES = 1000  # that three more tensors cost in a file, about


def to_csr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with the weights that get smaller in CSR form, as matrices of their first dimension.

    Such a weight becomes NAME.values (kept,), NAME.crow_indices (rows + 1,), NAME.col_indices (kept,) and
    NAME.shape; other tensors stay.
    """
    sparse: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = _csr_parts(tensor) if tensor.dim() > 1 else {}
        if parts and sum(part.nbytes for part in parts.values()) + _HEADER_BYTES < tensor.nbytes:
            sparse |= {f"{name}.{part}": value for part, value in parts.items()}
        else:
            sparse[name] = tensor
    return sparse


def to_dense(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the dense state. Raises BadFile where the parts of a weight do not fit together."""
    dense: dict[str, Tensor] = {}
    for name, tensor in state.items():
        weight, _, part = name.rpartition(".")
        if part not in PARTS or f"{weight}.crow_indices" not in state:
            dense[name] = tensor
        elif weight not in dense:
            dense[weight] = _dense(weight, state)
    return dense


def _csr_parts(tensor: Tensor) -> dict[str, Tensor]:
    matrix = tensor.flatten(1)
    rows, columns = matrix.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(matrix)).cumsum(0)
    return {
        "values": matrix[rows, columns],
        "crow_indices": torch.cat([counts.new_zeros(1), counts]).int(),
        "col_indices": columns.short() if matrix.shape[1] <= _MAX_INT16 else columns.int(),
        "shape": torch.tensor(tensor.shape),
    }


def _dense(name: str, state: Mapping[str, Tensor]) -> Tensor:
    try:
        values, starts, columns, shape = (state[f"{name}.{part}"] for part in PARTS)
        sizes = [int(size) for size in shape.flatten()]
        size = math.prod(sizes) * values.element_size()
        assert 0 <= size <= max_file_size(), f"it declares {sizes}"
        dense = torch.zeros(sizes, dtype=values.dtype)
        columns = columns.long()
        assert int(starts[0]) == 0
        assert int(starts[-1]) == len(values) == len(columns)
        assert len(starts) == len(dense) + 1
        assert not len(columns) or int(columns.min()) >= 0
        rows = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.long().diff())
        dense.flatten(1)[rows, columns] = values
    except (AssertionError, KeyError, RuntimeError, IndexError, TypeError, ValueError) as error:
        raise BadFile(f"{name} is compressed, and its parts do not fit together: {error}") from None
    return dense
