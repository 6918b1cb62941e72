"""Forward-error bounds of a network that computes in float32 (Higham 2002, chapter 3).

A sum of k products computed in any order, with or without fused multiply-adds, differs from the exact one by at
most gamma_k times the sum of the magnitudes, gamma_k = k u / (1 − k u) with u = 2^-24; products with a weight
of zero are exact and do not count. Errors of a layer's inputs pass through the magnitudes of its weights; ReLU and max pool do not raise them. It does not hold for
matrix units that round their inputs (TF32), nor for convolutions by fast transforms (Winograd).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .intervals import largest_magnitude
from .network import Network
from .operations import Affine, ReLU, Sum
from .relaxations import Bounds

UNIT = 2.0**-24
SMALLEST = 2.0**-126  # what a result below the normal range may lose
# Bounds are computed in float64, whose errors are of the same form with a unit 2^29 times smaller.
FLOAT64_SHARE = 1e-3


def error_bounds(network: Network, bounds: Mapping[int, Bounds]) -> Tensor:
    """Bound the error of each logit (n, classes) on all images for which `bounds` hold.

    bounds: intervals of each layer's values. Not finite where a value may leave the range of float32.
    """
    errors: dict[int, Tensor] = {0: torch.zeros_like(bounds[0][0])}
    for place, node in enumerate(network.nodes):
        read = [errors[source] for source in node.inputs]
        sizes = [largest_magnitude(bounds[source]) for source in node.inputs]
        if isinstance(node.operation, Affine):
            errors[place] = _affine(node.operation, sizes[0], read[0])
        elif isinstance(node.operation, Sum):
            error = read[0] + read[1]
            errors[place] = error + _gamma(1) * (sizes[0] + sizes[1] + error)
        elif isinstance(node.operation, ReLU):
            errors[place] = read[0]
        elif node.operation is not None:
            errors[place] = node.operation.apply(read[0])
    last = errors[len(network.nodes) - 1]
    overflows = largest_magnitude(bounds[len(network.nodes) - 1]) > torch.finfo(torch.float32).max
    return torch.where(overflows, torch.inf, last * (1 + FLOAT64_SHARE))


def margin_errors(errors: Tensor, y: Tensor) -> Tensor:
    """Return the error (n,) of the margins logit_y − logit_k, the largest over k, from those of the logits."""
    own = errors.gather(1, y[:, None])
    others = errors.scatter(1, y[:, None], 0.0).amax(1)
    return own[:, 0] + others


def _affine(operation: Affine, size: Tensor, error: Tensor) -> Tensor:
    """Return the error of A x + b; where it was folded, of the layers as the module computes them."""
    for part in operation.parts or (operation,):
        passed = part.linear(error, magnitude=True)
        size = part.magnitude(size)  # of the values that the next part reads
        steps = part.terms() + part.roundings
        error = passed + _gamma(steps) * (size + passed) + steps * SMALLEST
    return error


def _gamma(steps: Tensor | int) -> Tensor:
    share = torch.as_tensor(steps, dtype=torch.float64) * UNIT
    return torch.where(share < 1, share / (1 - share), torch.inf)
