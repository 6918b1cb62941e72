"""The windows of a max pool, and which of their values matter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .operations import MaxPool


def windows(pool: MaxPool, x: Tensor, border: float) -> Tensor:
    """Return the values of each window of x (n, c, h, w), (n, c, kh kw, windows).

    border: stands for values outside.
    """
    n, c = x.shape[:2]
    (ph, pw), kernel = pool.padding, pool.kernel
    padded = functional.pad(x, (pw, pw, ph, ph), value=border)
    found = functional.unfold(padded.flatten(0, 1)[:, None], kernel, pool.dilation, 0, pool.stride)
    return found.view(n, c, kernel[0] * kernel[1], -1)


def window_places(pool: MaxPool, x: Tensor) -> Tensor:
    """Return the place of each window's values among all of an image's, in the same shape."""
    index = torch.arange(x[0].numel(), dtype=torch.float64, device=x.device).view(1, *x.shape[1:])
    return windows(pool, index, 0.0).long().expand(len(x), -1, -1, -1)


def candidates(pool: MaxPool, lower: Tensor, upper: Tensor) -> Tensor:
    """Return which inputs may be the largest of a window that their intervals do not decide.

    lower, upper: (n, c, h, w). Returns bool of that shape.
    """
    low, high = windows(pool, lower, -torch.inf), windows(pool, upper, -torch.inf)
    top = high.argmax(2, keepdim=True)
    # A window is decided where the input of largest upper bound is nowhere below another.
    others = high.scatter(2, top, -torch.inf).amax(2, keepdim=True)
    is_open = low.gather(2, top) < others
    return _at_inputs(pool, (high >= low.amax(2, keepdim=True)) & is_open, lower)


def leaders(pool: MaxPool, values: Tensor) -> Tensor:
    """Return which inputs (n, c, h, w) are the largest of some window, bool."""
    found = windows(pool, values, -torch.inf)
    first = torch.zeros_like(found, dtype=torch.bool).scatter_(2, found.argmax(2, keepdim=True), True)
    return _at_inputs(pool, first, values)


def _at_inputs(pool: MaxPool, marked: Tensor, like: Tensor) -> Tensor:
    """Return which inputs are marked in some window."""
    marked = marked & (windows(pool, torch.ones_like(like[:1]), 0.0) > 0)  # not outside the image
    places = window_places(pool, like)
    found = like.new_zeros(len(like), like[0].numel())
    found.scatter_add_(1, places.flatten(1), marked.flatten(1).to(like))
    return (found > 0).view_as(like)
