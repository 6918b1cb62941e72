"""The layers that certificates know: affine maps, sums, and two that are not linear.

A batch of values has shape (n, *shape).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]
NOTHING = torch.empty(0)  # a layer's own fields follow those with defaults


@dataclass(frozen=True, eq=False)
class Affine(ABC):
    """The map x → A x + b.

    offset: b, broadcasts to the output; offset_magnitude: sum of the magnitudes that b was made from, where
    that is more than |b|; roundings: floating-point operations behind each output, at most, beside the
    products that are summed; parts: the layers that this one was folded from, in order.
    """

    offset: Tensor | None = None
    offset_magnitude: Tensor | None = None
    roundings: int = 2
    parts: tuple[Affine, ...] = ()

    @abstractmethod
    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        """Return A x, or |A| x."""

    def terms(self) -> Tensor | int:
        """Return how many products that are not zero are summed for each output, at most."""
        return 1

    def apply(self, x: Tensor) -> Tensor:
        """Return A x + b."""
        out = self.linear(x)
        return out if self.offset is None else out + self.offset

    def magnitude(self, x: Tensor) -> Tensor:
        """Return |A| x + |b| with the magnitudes that b was made from."""
        out = self.linear(x, magnitude=True)
        offset = self.offset if self.offset_magnitude is None else self.offset_magnitude
        return out if offset is None else out + offset.abs()


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """A two-dimensional convolution with zero padding; weight (out, in / groups, kh, kw)."""

    weight: Tensor = NOTHING
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        weight = self.weight.abs() if magnitude else self.weight
        return functional.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def terms(self) -> Tensor | int:
        return self.weight.count_nonzero((1, 2, 3)).view(-1, 1, 1)


@dataclass(frozen=True, eq=False)
class FullyConnected(Affine):
    """A linear layer; weight (out, in)."""

    weight: Tensor = NOTHING

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return x @ (self.weight.abs() if magnitude else self.weight).T

    def terms(self) -> Tensor | int:
        return self.weight.count_nonzero(1)


@dataclass(frozen=True, eq=False)
class Scaling(Affine):
    """The map x → scale x + b of each value by itself: normalisation, batch norm."""

    scale: Tensor = NOTHING

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return x * (self.scale.abs() if magnitude else self.scale)


@dataclass(frozen=True, eq=False)
class AveragePool(Affine):
    """An average over windows; the border counts as zeros unless `count_border` is False."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    ceil: bool = False
    count_border: bool = True
    divisor: int | None = None

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return functional.avg_pool2d(
            x, self.kernel, self.stride, self.padding, self.ceil, self.count_border, self.divisor
        )

    def terms(self) -> Tensor | int:
        return math.prod(self.kernel)


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The same values in another shape."""

    roundings: int = 0
    shape: Shape = ()

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return x.reshape(len(x), *self.shape)

    def terms(self) -> Tensor | int:
        return 0


@dataclass(frozen=True)
class Sum:
    """The sum of two values: a residual branch."""


@dataclass(frozen=True)
class ReLU:
    """The map x → max(x, 0) of each value."""


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each window."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def apply(self, x: Tensor) -> Tensor:
        """Return the largest values of x (n, c, h, w)."""
        return functional.max_pool2d(x, self.kernel, self.stride, self.padding, self.dilation)


Operation = Affine | Sum | ReLU | MaxPool


def folded(layer: Affine, norm: Scaling) -> Affine | None:
    """Return one layer for a convolution or linear layer and the scaling that follows it; None for others.

    Its `parts` are the two, in which the module rounds.
    """
    if not isinstance(layer, Convolution | FullyConnected) or norm.offset is None:
        return None
    outputs = len(layer.weight)
    scale = norm.scale.reshape(-1)
    if scale.numel() != 1 and (scale.numel() != outputs or norm.scale.shape[0] != outputs):
        return None
    offset = norm.offset if layer.offset is None else layer.offset * norm.scale + norm.offset
    column = scale.view(-1, *[1] * (layer.weight.dim() - 1))
    return replace(
        layer, weight=layer.weight * column, offset=offset, parts=(*(layer.parts or (layer,)), norm)
    )
