"""What a network that computes in float32 may add to its values by rounding (Higham 2002, chapter 3).

A sum of k products computed in any order, with or without fused multiply-adds, differs from the exact one by
at most gamma_k times the sum of the magnitudes, gamma_k = k u / (1 − k u) with u = 2^-24; products with a
weight of zero are exact and do not count. ReLU and max pool are exact. This does not hold for matrix units
that round their inputs (TF32), nor for convolutions by fast transforms (Winograd).

The bounds of certificates are of the values that the module computes: each affine layer and each sum may add
its own rounding to exact results, anything up to its bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .network import Network
from .operations import Affine, MaxPool, Operation, Reshape, Sum
from .relaxations import Bounds

UNIT = 2.0**-24
SMALLEST = 2.0**-126  # what a result below the normal range may lose
# Bounds are computed in float64, whose errors are of the same form with a unit 2^29 times smaller.
FLOAT64_SHARE = 1e-3


def rounding_of(operation: Operation | None, read: Sequence[Bounds]) -> Tensor | None:
    """Return what the module may add to each value (n, *shape) of a layer; None where it is exact.

    read: intervals of what the module computes for the layer's inputs. Infinite where a value may leave the
    range of float32.
    """
    sizes = [lower.abs().maximum(upper.abs()) for lower, upper in read]
    if isinstance(operation, Sum):
        return _sum_error(sizes[0] + sizes[1])
    if not isinstance(operation, Affine) or isinstance(operation, Reshape):
        return None
    return _affine_error(operation, sizes[0], torch.zeros_like(sizes[0]))


def error_bounds(network: Network, values: Sequence[Tensor]) -> Tensor:
    """Bound the error of each logit (n, classes) that a float32 network computes where `values` are exact.

    Errors of a layer's inputs pass through the magnitudes of its weights. values: of each layer.
    """
    errors: list[Tensor] = [torch.zeros_like(values[0])]
    for node in network.nodes[1:]:
        read = [errors[source] for source in node.inputs]
        if isinstance(node.operation, Affine):
            error = _affine_error(node.operation, values[node.inputs[0]].abs(), read[0])
        elif isinstance(node.operation, Sum):
            passed = read[0] + read[1]
            error = passed + _sum_error(sum((values[source].abs() for source in node.inputs), passed))
        elif isinstance(node.operation, MaxPool):
            error = node.operation.apply(read[0])
        else:
            error = read[0]
        errors.append(error)
    return errors[-1]


def _affine_error(operation: Affine, size: Tensor, error: Tensor) -> Tensor:
    """Return the error of A x + b; where it was folded, of the layers as the module computes them.

    size, error: magnitudes of the exact inputs, and their errors.
    """
    for part in operation.parts or (operation,):
        passed = part.linear(error, magnitude=True)
        size = part.magnitude(size)  # of the values that the next part reads
        steps = part.terms() + part.roundings
        error = passed + _gamma(steps) * (size + passed) + steps * SMALLEST * (size + passed > 0)
    error = torch.where(size > torch.finfo(torch.float32).max, torch.inf, error)
    return error * (1 + FLOAT64_SHARE)


def _sum_error(size: Tensor) -> Tensor:
    return size * UNIT * (1 + FLOAT64_SHARE)


def _gamma(steps: Tensor | int) -> Tensor:
    share = torch.as_tensor(steps, dtype=torch.float64) * UNIT
    return torch.where(share < 1, share / (1 - share), torch.inf)
