"""Affine layers backward: what linear functions of a layer's output are of its input.

Coefficients are matrices (values, rows): each column is one function of a layer's flattened values. So
a line of one value is applied to all functions at once, and sparse weights are used by sparse products.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .operations import Affine, AveragePool, Convolution, FullyConnected, Reshape, Scaling, Shape

# Multiplications a nanosecond on one core, of a sparse product, a transposed convolution and a dense product,
# and numbers that are copied.
SPARSE, CONVOLVED, DENSE, COPIED = 2.8, 6.0, 15.0, 1.0
MOST_ENTRIES = 2**24
MOST_DENSE = 2**22  # numbers in the matrix of a convolution, of which parts are taken


class Pullback(Protocol):
    """The contract of a layer x → A x + b backward."""

    def pull(self, v: Tensor) -> Tensor:
        """Return Aᵀ v (inputs, rows) for v (outputs, rows)."""

    def pick(self, neurons: Tensor) -> Tensor:
        """Return Aᵀ e (inputs, rows) for the unit vectors e of some outputs, given by their places."""


def pullback(operation: Affine, before: Shape, after: Shape) -> Pullback:
    """Return a layer backward in the form that costs least; shapes of its input and output."""
    if isinstance(operation, Reshape):
        return _Same(math.prod(before))
    if isinstance(operation, Scaling):
        return _Scaled(operation.scale.expand(after).reshape(-1, 1))
    if isinstance(operation, AveragePool):
        return _Averaged(operation, before, after)
    assert isinstance(operation, Convolution | FullyConnected)
    places, size = math.prod(after[1:]), math.prod(before) * math.prod(after)
    entries = int(operation.weight.count_nonzero()) * places
    costs = {"sparse": entries / SPARSE, "dense": size / DENSE}
    if isinstance(operation, Convolution):
        costs["convolved"] = _cost_of_convolution(operation, places)
        if min(costs, key=lambda form: costs[form]) == "convolved" or max(entries, size) > MOST_ENTRIES:
            small = size <= MOST_DENSE
            matrix = affine_matrix(operation, before, after).to_dense() if small else None
            return _Convolved(operation, before, after, matrix)
    matrix = affine_matrix(operation, before, after)
    return _Sparse(compressed(matrix.T)) if costs["sparse"] < costs["dense"] else _Dense(matrix.to_dense())


def convolved(operation: Convolution, before: Shape, after: Shape) -> Pullback:
    """Return a convolution backward by convolving, whose padding at the bottom and right is what is left."""
    return _Convolved(operation, before, after)


def trimmed(back: Pullback, outputs: Tensor, inputs: Tensor) -> Pullback:
    """Return a layer backward for functions of some outputs, of whose inputs only some matter.

    outputs, inputs: their places; coefficients elsewhere are taken and given as zero. The layer itself comes
    back where that would cost less.
    """
    costs, matrix = _costs_of_dense(back)
    if matrix is None or len(outputs) * len(inputs) / DENSE > costs / 2:
        return back
    part = matrix.index_select(0, outputs).index_select(1, inputs)
    return _Trimmed(part.T.contiguous(), outputs, inputs, back, matrix.shape[1])


def _costs_of_dense(back: Pullback) -> tuple[float, Tensor | None]:
    """Return what a row costs, and the whole matrix, of layers that are dense."""
    if isinstance(back, _Dense):
        return back.matrix.numel() / DENSE, back.matrix
    if isinstance(back, _Convolved) and back.matrix is not None:
        return _cost_of_convolution(back.operation, math.prod(back.after[1:])), back.matrix
    return 0.0, None


def _cost_of_convolution(operation: Convolution, places: int) -> float:
    weight = operation.weight
    copied = len(weight) * weight[0, 0].numel() * places / COPIED  # its windows, before the product
    return weight.numel() * places / CONVOLVED + copied


def affine_matrix(operation: Affine, before: Shape, after: Shape) -> Tensor:
    """Return A as a sparse matrix (outputs, inputs) in coordinates; shapes of its input and output."""
    if isinstance(operation, Convolution):
        rows, columns, values = _entries(operation, before, after)
    else:
        if isinstance(operation, FullyConnected):
            dense = operation.weight
        else:  # one product with all unit vectors
            units = torch.eye(math.prod(before), dtype=torch.float64).view(-1, *before)
            scale = {"scale": operation.scale} if isinstance(operation, Scaling) else {}
            device = next(iter(scale.values())).device if scale else units.device
            dense = operation.linear(units.to(device)).flatten(1).T
        rows, columns = dense.nonzero(as_tuple=True)
        values = dense[rows, columns]
    size = (math.prod(after), math.prod(before))
    return torch.sparse_coo_tensor(
        torch.stack((rows, columns)), values, size, check_invariants=False
    ).coalesce()


def compressed(matrix: Tensor) -> Tensor:
    """Return a sparse matrix with compressed rows."""
    with warnings.catch_warnings():  # torch calls its support of them a beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return matrix.coalesce().to_sparse_csr()


def _entries(operation: Convolution, before: Shape, after: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, column and value of what is not zero in a convolution's matrix."""
    weight = operation.weight
    out, inner, down, across = (index[:, None, None] for index in weight.nonzero(as_tuple=True))
    values = weight[weight != 0]
    y, x = (torch.arange(size, device=weight.device) for size in after[1:])
    (sh, sw), (ph, pw), (dh, dw) = operation.stride, operation.padding, operation.dilation
    y, x = y[None, :, None], x[None, None, :]
    source_y, source_x = y * sh + down * dh - ph, x * sw + across * dw - pw
    inside = (source_y >= 0) & (source_y < before[1]) & (source_x >= 0) & (source_x < before[2])
    source = out // (len(weight) // operation.groups) * weight.shape[1] + inner
    rows = (out * after[1] + y) * after[2] + x
    columns = (source * before[1] + source_y) * before[2] + source_x
    return rows[inside], columns[inside], values[:, None, None].expand_as(inside)[inside]


@dataclass(frozen=True)
class _Sparse:
    """Aᵀ with compressed rows."""

    matrix: Tensor

    def pull(self, v: Tensor) -> Tensor:
        return self.matrix @ v

    def pick(self, neurons: Tensor) -> Tensor:
        return self.matrix @ unit_vectors(neurons, self.matrix.shape[1])


@dataclass(frozen=True)
class _Dense:
    """A itself."""

    matrix: Tensor

    def pull(self, v: Tensor) -> Tensor:
        return self.matrix.T @ v

    def pick(self, neurons: Tensor) -> Tensor:
        return self.matrix[neurons].T.contiguous()


@dataclass(frozen=True)
class _Trimmed:
    """The part of Aᵀ from some outputs to some inputs, of the layer `whole`."""

    matrix: Tensor
    outputs: Tensor
    inputs: Tensor
    whole: Pullback
    size: int

    def pull(self, v: Tensor) -> Tensor:
        pulled = self.matrix @ v[self.outputs]
        return pulled.new_zeros(self.size, v.shape[1]).index_copy(0, self.inputs, pulled)

    def pick(self, neurons: Tensor) -> Tensor:
        return self.whole.pick(neurons)


@dataclass(frozen=True)
class _Convolved:
    """A transposed convolution; matrix: A itself, where that is not too large."""

    operation: Convolution
    before: Shape
    after: Shape
    matrix: Tensor | None = None

    def pull(self, v: Tensor) -> Tensor:
        op = self.operation
        if op.stride == op.dilation == (1, 1) and op.groups == 1:
            return self._correlate(v)
        images, (ph, pw), (_, height, width) = v.T.reshape(-1, *self.after), op.padding, self.before
        pulled = functional.conv_transpose2d(images, op.weight, None, op.stride, 0, 0, op.groups, op.dilation)
        # Without the padding, and with what no window reaches.
        around = (-pw, width + pw - pulled.shape[3], -ph, height + ph - pulled.shape[2])
        return functional.pad(pulled, around).flatten(1).T.contiguous()

    def _correlate(self, v: Tensor) -> Tensor:
        """Do the same by one product with the windows of v, which keeps the rows together."""
        weight, (ph, pw) = self.operation.weight, self.operation.padding
        (kh, kw), (_, height, width) = weight.shape[2:], self.before
        around = (0, 0, kw - 1 - pw, width + pw - self.after[2], kh - 1 - ph, height + ph - self.after[1])
        padded = functional.pad(v.view(*self.after, -1), around)
        found = padded.unfold(1, kh, 1).unfold(2, kw, 1).permute(0, 4, 5, 1, 2, 3)
        flipped = weight.flip(2, 3).transpose(0, 1).reshape(weight.shape[1], -1)
        return (flipped @ found.reshape(flipped.shape[1], -1)).view(-1, v.shape[1])

    def pick(self, neurons: Tensor) -> Tensor:
        op = self.operation
        channel, place = neurons // math.prod(self.after[1:]), neurons % math.prod(self.after[1:])
        (sh, sw), (ph, pw), (dh, dw) = op.stride, op.padding, op.dilation
        inner, kh, kw = op.weight.shape[1:]
        device = neurons.device
        down = (place // self.after[2] * sh)[:, None] + torch.arange(kh, device=device) * dh
        across = (place % self.after[2] * sw)[:, None] + torch.arange(kw, device=device) * dw
        source = (channel // (len(op.weight) // op.groups) * inner)[:, None] + torch.arange(
            inner, device=device
        )
        _, height, width = self.before
        size = (max(height + ph, int(down.max()) + 1), max(width + pw, int(across.max()) + 1))
        padded = op.weight.new_zeros(len(neurons), self.before[0], *size)
        row = torch.arange(len(neurons), device=device)[:, None, None, None]
        padded[row, source[:, :, None, None], down[:, None, :, None], across[:, None, None]] = op.weight[
            channel
        ]
        return padded[:, :, ph : ph + height, pw : pw + width].flatten(1).T.contiguous()


@dataclass(frozen=True)
class _Scaled:
    """A factor of each value, (values, 1)."""

    scale: Tensor

    def pull(self, v: Tensor) -> Tensor:
        return v * self.scale

    def pick(self, neurons: Tensor) -> Tensor:
        return unit_vectors(neurons, len(self.scale)).to(self.scale.device) * self.scale


@dataclass(frozen=True)
class _Same:
    """The same values in another shape."""

    size: int

    def pull(self, v: Tensor) -> Tensor:
        return v

    def pick(self, neurons: Tensor) -> Tensor:
        return unit_vectors(neurons, self.size)


@dataclass(frozen=True)
class _Averaged:
    """An average pool; rows are its images."""

    operation: AveragePool
    before: Shape
    after: Shape

    def pull(self, v: Tensor) -> Tensor:
        op, images = self.operation, v.T.reshape(-1, *self.after)
        if self.before[1:] == op.kernel and op.padding == (0, 0) and op.divisor is None:
            pulled = (images / math.prod(op.kernel)).expand(-1, *self.before)
        else:
            pulled = torch.ops.aten.avg_pool2d_backward(
                images.contiguous(),
                images.new_zeros(len(images), *self.before),
                op.kernel,
                op.stride,
                op.padding,
                op.ceil,
                op.count_border,
                op.divisor,
            )
        return pulled.flatten(1).T.contiguous()

    def pick(self, neurons: Tensor) -> Tensor:
        return self.pull(unit_vectors(neurons, math.prod(self.after)))


def unit_vectors(neurons: Tensor, size: int) -> Tensor:
    """Return unit vectors (size, rows)."""
    units = torch.zeros(size, len(neurons), dtype=torch.float64, device=neurons.device)
    units[neurons, torch.arange(len(neurons), device=neurons.device)] = 1
    return units
