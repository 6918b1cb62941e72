"""Linear functions of a layer's values, bounded from below by what the layers before it allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .network import Network
from .operations import Affine, Sum
from .regions import box_around, linear_minimum
from .relaxations import Bounds, Relaxation


@dataclass(frozen=True)
class Region:
    """What the images may be: a ball round each of x within [0, 1].

    x: (n, c, h, w), float64.
    """

    x: Tensor
    norm: str
    eps: float

    def box(self) -> Bounds:
        """Return the least and largest value of each pixel."""
        return box_around(self.x, self.eps)

    def minimum(self, v: Tensor, image: Tensor) -> Tensor:
        """Return the least value of each row v (rows, c, h, w) over the ball of its image."""
        clean = self.x.flatten(1)
        clean = clean if len(clean) == 1 else clean[image]
        return linear_minimum(v.flatten(1), clean, self.norm, self.eps)


def propagate(
    network: Network,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    bounds: Mapping[int, Bounds],
    start: Mapping[int, Tensor],
    image: Tensor,
    constant: Tensor | None = None,
    *,
    stop_above: float | None = None,
) -> Tensor:
    """Return lower bounds (rows,) of linear functions over the region, by backward substitution.

    start: coefficients (rows, *shape) of layers' values, by their place. image: which of the n images each
    row is of. constant: (rows,), is added. A layer that is not linear is replaced by its relaxation; where it has none, by the interval of
    its values in `bounds`. stop_above: a row is left alone once some bound of it, by the intervals of a layer
    on its way, is above this.
    """
    pending = dict(start)
    if constant is None:
        constant = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    found = torch.full_like(constant, -torch.inf)
    alive = torch.arange(len(image), device=image.device)
    for place in range(max(pending), 0, -1):
        v = pending.pop(place, None)
        if v is None:
            continue
        node = network.nodes[place]
        if isinstance(node.operation, Affine):
            constant = constant + node.operation.constant(v)
            _add(pending, node.inputs[0], node.operation.transpose(v, network.nodes[node.inputs[0]].shape))
        elif isinstance(node.operation, Sum):
            _add(pending, node.inputs[0], v)
            _add(pending, node.inputs[1], v)
        elif place not in relaxations:
            constant = constant + _interval_minimum(v, bounds[place], image[alive])
        else:
            if stop_above is not None and not pending and place in bounds:
                least = constant + _interval_minimum(v, bounds[place], image[alive])
                found[alive] = found[alive].maximum(least)
                going = least <= stop_above
                if not going.all():
                    v, constant, alive = v[going], constant[going], alive[going]
                if not len(alive):
                    return found
            v, added = relaxations[place].backward(v, image[alive])
            constant = constant + added
            _add(pending, node.inputs[0], v)
    if 0 in pending:
        constant = constant + region.minimum(pending[0], image[alive])
    if stop_above is None:
        return constant
    found[alive] = found[alive].maximum(constant)
    return found


def _add(pending: dict[int, Tensor], place: int, v: Tensor) -> None:
    pending[place] = pending[place] + v if place in pending else v


def _interval_minimum(v: Tensor, bounds: Bounds, image: Tensor) -> Tensor:
    """Return the least value of each row over intervals."""
    lower, upper = (bound.flatten(1) for bound in bounds)
    flat = v.flatten(1)
    positive = flat.clamp_min(0)
    if len(lower) == 1:
        return positive @ lower[0] + (flat - positive) @ upper[0]
    return (positive * lower[image] + (flat - positive) * upper[image]).sum(1)
