"""Linear functions of the layers' values of one image, bounded from below by backward substitution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .network import Network
from .operations import Affine, Sum
from .pullbacks import Pullback
from .regions import box_around, linear_minimum
from .relaxations import Bounds, Relaxation


@dataclass(frozen=True)
class Region:
    """The ball round clean images x (n, c, h, w), float64, within [0, 1]."""

    x: Tensor
    norm: str
    eps: float

    def box(self) -> Bounds:
        """Return the least and largest value of each pixel."""
        return box_around(self.x, self.eps)

    def of_image(self, index: int) -> Region:
        """Return the region of one image."""
        return Region(self.x[index : index + 1], self.norm, self.eps)

    def minimum(self, v: Tensor) -> Tensor:
        """Return the least values (rows,) of functions v (pixels, rows) over the ball of the one image."""
        return linear_minimum(v.T, self.x.flatten(), self.norm, self.eps)


@dataclass(frozen=True)
class Knowledge:
    """What is known so far of the layers' values for one image, by the layers' places.

    bounds: intervals (1, *shape) of what the module computes; rounding: what the module may add to each value
    of an affine layer or a sum, (1, *shape); relaxations: of the layers that are not linear; trimmed: affine
    layers backward without what these relaxations do not read.
    """

    network: Network
    region: Region
    bounds: dict[int, Bounds]
    rounding: dict[int, Tensor]
    relaxations: dict[int, Relaxation]
    trimmed: dict[int, Pullback] = field(default_factory=dict)


def propagate(
    known: Knowledge,
    start: int,
    v: Tensor,
    constant: Tensor | None = None,
    *,
    relaxations: Mapping[int, Relaxation] | None = None,
    stop_above: float | None = None,
) -> Tensor:
    """Return lower bounds (rows,) of linear functions v (values, rows) of the layer at `start`.

    constant: (rows,), is added. relaxations: instead of those that are known. A layer that is not linear and
    has none is replaced by the interval of its values. stop_above: a row is left alone once a bound of it, by
    the intervals of a layer on its way, is above this.
    """
    nodes = known.network.nodes
    relaxations = known.relaxations if relaxations is None else relaxations
    pending = {start: v}
    least = v.new_zeros(v.shape[1]) if constant is None else constant
    found = torch.full_like(least, -torch.inf)
    alive = torch.arange(len(least), device=v.device)
    for place in range(start, 0, -1):
        if place not in pending:
            continue
        v, node = pending.pop(place), nodes[place]
        if place in known.rounding:
            least = least - known.rounding[place].flatten() @ v.abs()
        if node.back is not None and isinstance(node.operation, Affine):
            if node.operation.offset is not None:
                least = least + node.operation.offset.expand(node.shape).flatten() @ v
            _add(pending, node.inputs[0], known.trimmed.get(place, node.back).pull(v))
        elif isinstance(node.operation, Sum):
            _add(pending, node.inputs[0], v)
            _add(pending, node.inputs[1], v)
        elif place not in relaxations:
            least = least + _interval_minimum(v, known.bounds[place])
        else:
            if stop_above is not None and not pending:
                bound = least + _interval_minimum(v, known.bounds[place])
                found[alive] = found[alive].maximum(bound)
                going = bound <= stop_above
                if not going.all():
                    v, least, alive = v[:, going], least[going], alive[going]
                if not len(alive):
                    return found
            v, added = relaxations[place].backward(v)
            least = least + added
            _add(pending, node.inputs[0], v)
    if 0 in pending:
        least = least + known.region.minimum(pending[0])
    if stop_above is None:
        return least
    found[alive] = found[alive].maximum(least)
    return found


def _add(pending: dict[int, Tensor], place: int, v: Tensor) -> None:
    pending[place] = pending[place] + v if place in pending else v


def _interval_minimum(v: Tensor, bounds: Bounds) -> Tensor:
    """Return the least values of functions over intervals."""
    lower, upper = (bound.flatten() for bound in bounds)
    return (lower + upper) / 2 @ v - (upper - lower) / 2 @ v.abs()
