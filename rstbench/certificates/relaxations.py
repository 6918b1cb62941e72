"""Lines above and below the layers that are not linear, over the intervals of their inputs.

A relaxation takes coefficients v (rows, *output) of a linear function of a layer's output and returns
coefficients of its input and a constant, such that the function is nowhere below the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .operations import MaxPool, Shape

Bounds = tuple[Tensor, Tensor]  # lower and upper, (n, *shape)


class Relaxation(Protocol):
    """The contract of a relaxation of n images; `image` (rows,) tells which of them each row is of."""

    def backward(self, v: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients of the input (rows, *input) and a constant (rows,)."""


@dataclass(frozen=True)
class ReLULines:
    """The lines of CROWN (Zhang et al., NeurIPS 2018): slope·x below, chord·(x − lower) above.

    slope, chord: (n, *shape); intercept: −chord·lower where the ReLU is unstable, else 0. by_row: the slopes
    are (rows, *shape), each row's own.
    """

    slope: Tensor
    chord: Tensor
    intercept: Tensor
    by_row: bool = False

    @classmethod
    def over(cls, lower: Tensor, upper: Tensor) -> ReLULines:
        """Return the lines over intervals; the lower slope is 0 or 1, where less area lies between."""
        unstable = (lower < 0) & (upper > 0)
        active = (lower >= 0).to(lower)
        chord = torch.where(unstable, upper / (upper - lower), active)
        slope = torch.where(unstable, (upper > -lower).to(lower), active)
        return cls(slope, chord, torch.where(unstable, -chord * lower, 0.0))

    def backward(self, v: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        negative = v.clamp_max(0)
        slope = self.slope if self.by_row else _of(self.slope, image)
        # v max(0, x) >= v slope x where v >= 0, >= v (chord x + intercept) where v < 0.
        constant = (negative * _of(self.intercept, image)).flatten(1).sum(1)
        return (v - negative) * slope + negative * _of(self.chord, image), constant


@dataclass(frozen=True)
class MaxPoolLines:
    """Lines of a max pool: one of its inputs below; above, a line in the input of largest upper bound.

    With u the largest upper bound of the others, max(x) <= max(x_i, u), which is x_i where its lower bound is
    at least u, and else at most the chord of that function of x_i.

    below, above: flat index of an input within its channel, (n, c, windows); chord, intercept likewise.
    """

    shape: Shape
    below: Tensor
    above: Tensor
    chord: Tensor
    intercept: Tensor

    @classmethod
    def over(cls, pool: MaxPool, lower: Tensor, upper: Tensor) -> MaxPoolLines:
        """Return the lines over intervals of the inputs."""
        places = pool.places(tuple(lower.shape[1:]), lower.device)
        low, high = pool.windows(lower, -torch.inf), pool.windows(upper, -torch.inf)
        most = low.amax(2, keepdim=True)
        # Of several inputs with the largest lower bound, the one of largest upper bound.
        below = torch.where(low == most, high, -torch.inf).argmax(2, keepdim=True)
        top, above = high.max(2, keepdim=True)
        others = high.scatter(2, above, -torch.inf).amax(2, keepdim=True)
        own = low.gather(2, above)
        decided = own >= others
        chord = torch.where(decided, 1.0, (top - others) / (top - own).clamp_min(torch.finfo(low.dtype).tiny))
        intercept = torch.where(decided, 0.0, others - chord * own)
        below = torch.where(decided, above, below)
        windows = places.expand(*low.shape[:2], -1, -1)
        found = (windows.gather(2, index)[:, :, 0] for index in (below, above))
        return cls(tuple(lower.shape[1:]), *found, chord[:, :, 0], intercept[:, :, 0])

    def backward(self, v: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        flat = v.flatten(2)
        negative = flat.clamp_max(0)
        out = v.new_zeros(len(v), self.shape[0], self.shape[1] * self.shape[2])
        out = out.scatter_add(2, _of(self.below, image), flat - negative)
        out = out.scatter_add(2, _of(self.above, image), negative * _of(self.chord, image))
        constant = (negative * _of(self.intercept, image)).flatten(1).sum(1)
        return out.view(len(v), *self.shape), constant


def pool_candidates(pool: MaxPool, lower: Tensor, upper: Tensor) -> Tensor:
    """Return which inputs may be the largest of a window that is not decided, (n, c, h, w) bool."""
    low, high = pool.windows(lower, -torch.inf), pool.windows(upper, -torch.inf)
    most, top = low.amax(2, keepdim=True), high.argmax(2, keepdim=True)
    # A window is decided where the input of largest upper bound is nowhere below another.
    others = high.scatter(2, top, -torch.inf).amax(2, keepdim=True)
    may = (high >= most) & (low.gather(2, top) < others)
    return _at_inputs(pool, may, lower)


def pool_leaders(pool: MaxPool, values: Tensor) -> Tensor:
    """Return which inputs (n, c, h, w) are the largest of some window, bool."""
    windows = pool.windows(values, -torch.inf)
    first = torch.zeros_like(windows, dtype=torch.bool).scatter_(2, windows.argmax(2, keepdim=True), True)
    return _at_inputs(pool, first, values)


def _at_inputs(pool: MaxPool, marked: Tensor, like: Tensor) -> Tensor:
    """Return which inputs are marked in some window."""
    marked = marked & (pool.windows(torch.ones_like(like[:1]), 0.0) > 0)  # not outside the image
    places = pool.places(tuple(like.shape[1:]), like.device).expand_as(marked)
    found = like.new_zeros(*like.shape[:2], like[0, 0].numel())
    found.scatter_add_(2, places.flatten(2), marked.flatten(2).to(like))
    return (found > 0).view_as(like)


def _of(values: Tensor, image: Tensor) -> Tensor:
    """Return the values of each row's image, without a copy where there is only one."""
    return values.expand(len(image), *values.shape[1:]) if len(values) == 1 else values[image]
