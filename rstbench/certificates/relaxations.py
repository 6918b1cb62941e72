"""Lines above and below the layers that are not linear, over the intervals of their inputs, for one image.

A relaxation takes coefficients v (outputs, rows) of linear functions of a layer's values and returns those of
its inputs and constants, such that no function is anywhere below the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .operations import MaxPool
from .windows import window_places, windows

Bounds = tuple[Tensor, Tensor]  # lower and upper, (n, *shape)


class Relaxation(Protocol):
    """The contract of a relaxation."""

    def backward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients of the inputs (inputs, rows) and constants (rows,)."""

    def read(self) -> Tensor:
        """Return which inputs may get a coefficient, bool (inputs,)."""


@dataclass(frozen=True)
class ReLULines:
    """The lines of CROWN (Zhang et al., NeurIPS 2018): slope·x below, chord·(x − lower) above.

    active: 1.0 for the inputs that are nowhere negative, (inputs, 1); unstable: places of those with both
    signs, and of these slope and chord (unstable, 1), or of each row its own, and −chord·lower (unstable,).
    """

    active: Tensor
    unstable: Tensor
    slope: Tensor
    chord: Tensor
    intercept: Tensor

    @classmethod
    def over(cls, lower: Tensor, upper: Tensor) -> ReLULines:
        """Return the lines over intervals (1, *shape); the lower slope is 0 or 1, with less area between."""
        lower, upper = lower.flatten(), upper.flatten()
        active = (lower >= 0).to(lower)[:, None]
        unstable = ((lower < 0) & (upper > 0)).nonzero()[:, 0]
        low, high = lower[unstable], upper[unstable]
        chord = high / (high - low)
        slope = (high > -low).to(low)
        return cls(active, unstable, slope[:, None], chord[:, None], -chord * low)

    def backward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        both = v[self.unstable]
        negative = both.clamp_max(0)
        # v max(0, x) >= v slope x where v >= 0, >= v (chord x + intercept) where v < 0.
        lines = (both - negative) * self.slope + negative * self.chord
        return (v * self.active).index_add(0, self.unstable, lines), self.intercept @ negative

    def read(self) -> Tensor:
        return (self.active[:, 0] > 0).index_fill(0, self.unstable, True)


@dataclass(frozen=True)
class MaxPoolLines:
    """Lines of a max pool: one of its inputs below; above, a line in the input of largest upper bound.

    With u the largest upper bound of the others, max(x) <= max(x_i, u), which is x_i where its lower bound is
    at least u, and else at most the chord of that function of x_i.

    inputs: their number; below, above: place of an input for each window; chord (windows, 1), intercept.
    """

    inputs: int
    below: Tensor
    above: Tensor
    chord: Tensor
    intercept: Tensor

    @classmethod
    def over(cls, pool: MaxPool, lower: Tensor, upper: Tensor) -> MaxPoolLines:
        """Return the lines over intervals (1, c, h, w)."""
        low, high = windows(pool, lower, -torch.inf), windows(pool, upper, -torch.inf)
        most = low.amax(2, keepdim=True)
        # Of several inputs with the largest lower bound, the one of largest upper bound.
        below = torch.where(low == most, high, -torch.inf).argmax(2, keepdim=True)
        top, above = high.max(2, keepdim=True)
        others = high.scatter(2, above, -torch.inf).amax(2, keepdim=True)
        own = low.gather(2, above)
        decided = own >= others
        chord = torch.where(decided, 1.0, (top - others) / torch.where(decided, 1.0, top - own))
        intercept = torch.where(decided, 0.0, others - chord * own)
        places = window_places(pool, lower)
        below = places.gather(2, torch.where(decided, above, below)).flatten()
        above = places.gather(2, above).flatten()
        return cls(lower.numel(), below, above, chord.view(-1, 1), intercept.flatten())

    def backward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        negative = v.clamp_max(0)
        out = v.new_zeros(self.inputs, v.shape[1]).index_add(0, self.below, v - negative)
        return out.index_add(0, self.above, negative * self.chord), self.intercept @ negative

    def read(self) -> Tensor:
        nothing = torch.zeros(self.inputs, dtype=torch.bool, device=self.below.device)
        return nothing.index_fill(0, self.below, True).index_fill(0, self.above, True)
