"""Check labels: whole numbers from 0, one an image."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BadRequest

NUMBER_THEM = "np.unique(y, return_inverse=True)[1] numbers any classes from 0"


def integer_labels(y: Tensor, images: int, stored: str, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return (labels (n,) int64, notes); a column or row of labels is flattened.

    images: their number; stored: the name of the labels' dtype. Raises BadRequest for one-hot rows and for
    other values than whole numbers from 0.
    """
    notes: tuple[str, ...] = ()
    if y.dim() == 2 and len(y) == images and y.shape[1] > 1:
        raise BadRequest(_rows_refused(y, name))
    if y.dim() == 2 and 1 in y.shape:
        notes = (f"labels {'(n, 1)' if y.shape[1] == 1 else '(1, n)'} read as (n,)",)
        y = y.flatten()
    if y.dim() != 1:
        raise BadRequest(f"{name}: labels must be (n,), one an image, got {tuple(y.shape)}")
    if y.dtype.is_floating_point or y.dtype.is_complex:
        whole = not y.dtype.is_complex and bool((y == y.round()).all())
        helps = "y.astype(int) makes them so" if whole else NUMBER_THEM
        raise BadRequest(f"{name}: labels must be whole numbers from 0, got {stored}; {helps}")
    y = y.long()
    if bool((y < 0).any()):
        raise BadRequest(f"{name}: labels must be whole numbers from 0, got {int(y.min())}; {NUMBER_THEM}")
    return y, notes


def counts_from_one(y: Tensor) -> tuple[str, ...]:
    """Note where no label is 0, for labels that alone tell the number of classes."""
    low, high = int(y.min()), int(y.max())
    if low == 0:
        return ()
    return (f"no label is 0, they are {low} to {high}: where they count from 1, store y - 1",)


def _rows_refused(y: Tensor, name: str) -> str:
    problem = f"{name}: labels must be (n,), whole numbers from 0, got {tuple(y.shape)}"
    values = y.real.double()
    if bool(((values >= 0).all() & ((values.sum(1) - 1).abs() < 1e-3)).all()):
        hard = torch.isin(values, torch.tensor([0.0, 1.0], dtype=values.dtype)).all()
        return f"{problem}; {'one-hot rows' if hard else 'probabilities'} become labels by y.argmax(1)"
    return problem
