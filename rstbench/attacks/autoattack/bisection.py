"""Find where a property of sorted sequences ends, for many rows at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def last_true(holds: Callable[[Tensor], Tensor], like: Tensor, end: int, halvings: int = 0) -> Tensor:
    """Return for each row the last index at which `holds` is true, int64 (rows, 1).

    holds: of indices (rows, 1), true at first and false from some index on. Index 0 counts as true, `end` as
    false, and neither is asked. like: any tensor of as many rows; halvings: as many as reach the answer.
    """
    low = torch.zeros(len(like), 1, dtype=torch.long, device=like.device)
    high = torch.full_like(low, end)
    for _ in range(halvings or math.ceil(math.log2(end + 1))):
        middle = (low + high) // 2
        true = holds(middle)
        low, high = torch.where(true, middle, low), torch.where(true, high, middle)
    return low
