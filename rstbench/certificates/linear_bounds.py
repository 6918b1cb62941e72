"""Bounds of every layer by backward linear propagation, where intervals leave something open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .backward import Region, propagate
from .intervals import interval_bounds, node_interval
from .network import Network
from .operations import Affine, MaxPool, ReLU
from .relaxations import Bounds, MaxPoolLines, Relaxation, ReLULines, pool_candidates, pool_leaders

# Bytes of the coefficients of the widest layer that are propagated at once: what a processor's caches hold,
# and what a GPU needs to be busy.
CHUNK = {"cpu": 2**22, "cuda": 2**28}


@dataclass(frozen=True)
class LinearBounds:
    """What is known of n images once every layer is bounded.

    bounds: intervals of each layer's values, by place. relaxations: of each layer that is not linear.
    propagated: how many single neurons, of all images, were bounded by propagation.
    """

    bounds: dict[int, Bounds]
    relaxations: dict[int, Relaxation]
    propagated: int


def linear_bounds(network: Network, region: Region) -> LinearBounds:
    """Bound every layer's values, each by the tighter of interval and linear bound.

    Propagated are the inputs of ReLUs whose sign the intervals leave open and, where a max pool follows, those
    that may be the largest of a window; not inputs that are outputs of such layers themselves.
    """
    values = network.values(region.x)
    refined = {source: place for place, source in network.inputs_of_nonlinear().items()}
    bounds: dict[int, Bounds] = {0: region.box()}
    relaxations: dict[int, Relaxation] = {}
    propagated = 0
    for place, node in enumerate(network.nodes):
        if place:
            bounds[place] = node_interval(node, bounds)
        if isinstance(node.operation, ReLU):
            relaxations[place] = ReLULines.over(*bounds[node.inputs[0]])
        elif isinstance(node.operation, MaxPool):
            relaxations[place] = MaxPoolLines.over(node.operation, *bounds[node.inputs[0]])
        elif place in refined:
            refining = _Refining(network, region, relaxations, bounds, place)
            pool = network.pool_after(refined[place])
            if pool is None:
                refining.decide_signs(values[place])
            else:
                refining.decide_windows(pool, values[place], isinstance(network.nodes[refined[place]].operation, ReLU))
            bounds[place] = refining.bounds()
            propagated += refining.propagated()
    return LinearBounds(bounds, relaxations, propagated)


class _Refining:
    """Tightens the interval of one layer's values."""

    def __init__(
        self,
        network: Network,
        region: Region,
        relaxations: dict[int, Relaxation],
        bounds: dict[int, Bounds],
        place: int,
    ) -> None:
        self.network, self.region, self.relaxations, self.known = network, region, relaxations, bounds
        self.place = place
        lower, upper = bounds[place]
        # Of each side: the bounds, and which of them are linear ones by now.
        self.sides = {sign: sign * bound.flatten(1) for sign, bound in ((1, lower), (-1, upper))}
        self.done = {sign: torch.zeros_like(bound, dtype=torch.bool) for sign, bound in self.sides.items()}

    def bounds(self) -> Bounds:
        """Return the tightened intervals. In exact arithmetic the two ends cannot cross."""
        lower, upper = self.sides[1], -self.sides[-1]
        shape = (len(lower), *self.network.nodes[self.place].shape)
        return lower.view(shape), upper.maximum(lower).view(shape)

    def propagated(self) -> int:
        """Return how many neurons were bounded by propagation."""
        return int((self.done[1] | self.done[-1]).sum())

    def decide_signs(self, values: Tensor) -> None:
        """Bound the neurons whose sign is open: first on the side that may decide it, by the clean values."""
        positive = values > 0
        for sign, likely in ((1, positive), (-1, ~positive)):
            self._bound(self._unstable() & likely, sign, stop_above=0.0)
        for sign in (1, -1):
            self._bound(self._unstable(), sign)

    def decide_windows(self, pool: MaxPool, values: Tensor, rectified: bool) -> None:
        """Bound the neurons that may be the largest of a window, and their sign where they are `rectified`.

        First the largest clean values from below, which may decide a window; then from above what is left,
        then from below.
        """

        def open_ones() -> Tensor:
            lower, upper = (bound.clamp_min(0) if rectified else bound for bound in self.bounds())
            return pool_candidates(pool, lower, upper)

        leaders = pool_leaders(pool, values)
        unstable = self._unstable() if rectified else torch.zeros_like(leaders)
        self._bound(leaders & (unstable | open_ones()), 1)
        unstable = self._unstable() if rectified else unstable
        self._bound(open_ones() | (leaders & unstable), -1)
        self._bound(open_ones(), 1)

    def _unstable(self) -> Tensor:
        lower, upper = self.bounds()
        return (lower < 0) & (upper > 0)

    def _bound(self, neurons: Tensor, sign: int, stop_above: float | None = None) -> None:
        """Bound neurons, a mask (n, *shape), from below, or from above for sign −1.

        Where that stops early the bound is not the tightest, and the neuron may be asked for again.
        """
        image, neuron = (neurons.flatten(1) & ~self.done[sign]).nonzero(as_tuple=True)
        side = self.sides[sign]
        for part in chunks(self.network, image):
            at, which = image[part], neuron[part]
            start, v, constant = self._start(which, sign)
            found = propagate(
                self.network,
                self.region,
                self.relaxations,
                self.known,
                {start: v},
                at,
                constant,
                stop_above=stop_above,
            )
            side[at, which] = side[at, which].maximum(found)
            self.done[sign][at, which] = True

    def _start(self, neuron: Tensor, sign: int) -> tuple[int, Tensor, Tensor | None]:
        """Return the neurons times `sign` as coefficients of a layer's values and constants."""
        node = self.network.nodes[self.place]
        if isinstance(node.operation, Affine):  # its rows are known: no need to multiply unit vectors
            before, offset = node.inputs[0], node.operation.offset
            v = sign * node.operation.rows(neuron, node.shape, self.network.nodes[before].shape)
            return before, v, None if offset is None else sign * offset.expand(node.shape).flatten()[neuron]
        units = self.sides[1].new_zeros(len(neuron), self.sides[1].shape[1])
        units[torch.arange(len(neuron), device=neuron.device), neuron] = sign
        return self.place, units.view(-1, *node.shape), None


def chunks(network: Network, image: Tensor) -> Iterator[slice]:
    """Yield parts of rows such that the coefficients of the widest layer fit into memory."""
    widest = max(torch.Size(node.shape).numel() for node in network.nodes)
    size = max(1, CHUNK.get(image.device.type, 2**22) // (8 * widest))
    for first in range(0, len(image), size):
        yield slice(first, first + size)


def margin_rows(y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the coefficients of logit_y − logit_k (n (classes − 1), classes), and the image of each row."""
    others = torch.arange(classes, device=y.device).expand(len(y), -1)
    k = others[others != y[:, None]]
    image = torch.arange(len(y), device=y.device).repeat_interleave(classes - 1)
    rows = torch.zeros(len(k), classes, dtype=torch.float64, device=y.device)
    index = torch.arange(len(k), device=y.device)
    rows[index, y[image]] = 1.0
    rows[index, k] = -1.0
    return rows, image


def margins_by(
    network: Network, region: Region, known: LinearBounds, y: Tensor, *, intervals: bool = False
) -> Tensor:
    """Return lower bounds of each margin (n, classes − 1), linear ones or, as IBP does, by intervals.

    The margins are rows of the last linear layers, so that intervals are of what these read.
    """
    last = len(network.nodes) - 1
    rows, image = margin_rows(y, network.nodes[-1].shape[0])
    relaxations = {} if intervals else known.relaxations
    found = [
        propagate(network, region, relaxations, known.bounds, {last: rows[part]}, image[part])
        for part in chunks(network, image)
    ]
    return torch.cat(found).view(len(y), -1) if found else rows.new_zeros(len(y), 0)


def interval_knowledge(network: Network, region: Region) -> LinearBounds:
    """Return interval bounds alone, without relaxations."""
    return LinearBounds(interval_bounds(network, region.box()), {}, 0)
