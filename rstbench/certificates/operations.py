"""The layers that certificates know, as linear maps with their transposes, and two that are not linear.

A batch of values has shape (n, *shape). Coefficients of linear functions of a layer's values, which are
propagated backward, have shape (rows, *shape).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Affine:
    """The map x → A x + b.

    offset: b, broadcasts to the output; offset_magnitude: sum of the magnitudes that b was made from, where
    that is more than |b|; roundings: floating-point operations behind each output, at most, beside the
    products that are summed; parts: the layers that this one was folded from, in order.
    """

    offset: Tensor | None = None
    offset_magnitude: Tensor | None = None
    roundings: int = 2
    parts: tuple[Affine, ...] = ()

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        """Return A x, or |A| x."""
        raise NotImplementedError

    def transpose(self, v: Tensor, shape: Shape) -> Tensor:
        """Return Aᵀ v for coefficients v (rows, *output); shape: of the input."""
        raise NotImplementedError

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

    def constant(self, v: Tensor) -> Tensor | float:
        """Return v·b for each row."""
        if self.offset is None:
            return 0.0
        # Sum over what b does not depend on first: it is small.
        kept = v.flatten(1) @ torch.ones_like(v[0]).mul_(self.offset).flatten()
        return kept

    def rows(self, neurons: Tensor, output: Shape, shape: Shape) -> Tensor:
        """Return Aᵀ e for the unit vectors e of some outputs, given by their flat indices."""
        units = torch.zeros(len(neurons), math.prod(output), dtype=torch.float64, device=neurons.device)
        units[torch.arange(len(neurons), device=neurons.device), neurons] = 1
        return self.transpose(units.view(-1, *output), shape)


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """A two-dimensional convolution with zero padding; weight (out, in / groups, kh, kw)."""

    weight: Tensor = torch.empty(0)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        weight = self.weight.abs() if magnitude else self.weight
        return functional.conv2d(
            x, weight, None, self.stride, self.padding, self.dilation, self.groups
        )

    def transpose(self, v: Tensor, shape: Shape) -> Tensor:
        used = _used(v.detach()) if self.groups == 1 else None
        weight = self.weight
        if used is not None:
            v, weight = v[:, used], weight[used]
        out = functional.conv_transpose2d(
            v, weight, None, self.stride, self.padding, self._left_over(v, shape), self.groups, self.dilation
        )
        return out

    def _left_over(self, v: Tensor, shape: Shape) -> tuple[int, int]:
        """Return how many rows and columns at the end no window reaches."""
        sizes = zip(shape[1:], v.shape[2:], self.stride, self.padding, self._spans(), strict=True)
        down, across = (size - ((out - 1) * step - 2 * pad + span) for size, out, step, pad, span in sizes)
        return down, across

    def _spans(self) -> tuple[int, int]:
        down, across = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))
        return down, across

    def rows(self, neurons: Tensor, output: Shape, shape: Shape) -> Tensor:
        channel = neurons // (output[1] * output[2])
        place = neurons % (output[1] * output[2])
        (sh, sw), (ph, pw), (dh, dw) = self.stride, self.padding, self.dilation
        inner, kh, kw = self.weight.shape[1:]
        device = neurons.device
        down = (place // output[2] * sh)[:, None] + torch.arange(kh, device=device) * dh
        across = (place % output[2] * sw)[:, None] + torch.arange(kw, device=device) * dw
        first = channel // (len(self.weight) // self.groups) * inner
        source = first[:, None] + torch.arange(inner, device=device)
        # Padded so that every window fits, whatever the stride leaves over.
        height, width = max(shape[1] + 2 * ph, int(down.max()) + 1), max(shape[2] + 2 * pw, int(across.max()) + 1)
        out = self.weight.new_zeros(len(neurons), shape[0], height, width)
        row = torch.arange(len(neurons), device=device)[:, None, None, None]
        out[row, source[:, :, None, None], down[:, None, :, None], across[:, None, None, :]] = self.weight[channel]
        return out[:, :, ph : ph + shape[1], pw : pw + shape[2]]

    def terms(self) -> Tensor | int:
        return self.weight.count_nonzero((1, 2, 3)).view(-1, 1, 1)


@dataclass(frozen=True, eq=False)
class FullyConnected(Affine):
    """A linear layer; weight (out, in)."""

    weight: Tensor = torch.empty(0)

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return x @ (self.weight.abs() if magnitude else self.weight).T

    def transpose(self, v: Tensor, shape: Shape) -> Tensor:
        return v @ self.weight

    def rows(self, neurons: Tensor, output: Shape, shape: Shape) -> Tensor:
        return self.weight[neurons] if len(output) == 1 else super().rows(neurons, output, shape)

    def terms(self) -> Tensor | int:
        return self.weight.count_nonzero(1)


@dataclass(frozen=True, eq=False)
class Scaling(Affine):
    """The map x → scale x + b of each value by itself: normalisation, batch norm."""

    scale: Tensor = torch.empty(0)

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return x * (self.scale.abs() if magnitude else self.scale)

    def transpose(self, v: Tensor, shape: Shape) -> Tensor:
        return v * self.scale


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

    def transpose(self, v: Tensor, shape: Shape) -> Tensor:
        whole = v.new_zeros(()).expand(len(v), *shape)
        out: Tensor = torch.ops.aten.avg_pool2d_backward(
            v.contiguous(),
            whole.contiguous(),
            self.kernel,
            self.stride,
            self.padding,
            self.ceil,
            self.count_border,
            self.divisor,
        )
        return out

    def terms(self) -> Tensor | int:
        return math.prod(self.kernel)


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The same values in another shape."""

    roundings: int = 0
    shape: Shape = ()

    def linear(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return x.reshape(len(x), *self.shape)

    def transpose(self, v: Tensor, shape: Shape) -> Tensor:
        return v.reshape(len(v), *shape)

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

    def windows(self, x: Tensor, border: float) -> Tensor:
        """Return the values of each window, (n, c, kh kw, windows); `border` stands for those outside."""
        n, c = x.shape[:2]
        (ph, pw), kernel = self.padding, self.kernel
        padded = functional.pad(x, (pw, pw, ph, ph), value=border)
        found = functional.unfold(padded.flatten(0, 1)[:, None], kernel, self.dilation, 0, self.stride)
        return found.view(n, c, kernel[0] * kernel[1], -1)

    def places(self, shape: Shape, device: torch.device) -> Tensor:
        """Return the flat index within its channel of each value of a window, (kh kw, windows)."""
        size = shape[1] * shape[2]
        index = torch.arange(size, dtype=torch.float64, device=device).view(1, 1, *shape[1:])
        return self.windows(index, 0.0)[0, 0].long()


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


def _used(v: Tensor) -> Tensor | None:
    """Return the channels in which some coefficient is not zero; None where nearly all are."""
    used = v.abs().amax((0, 2, 3)).nonzero()[:, 0]
    return used if 0 < len(used) < 0.9 * v.shape[1] else None
