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
from .relaxations import Bounds, MaxPoolLines, Relaxation, ReLULines, pool_candidates

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

    Propagated are the inputs of ReLUs whose sign the intervals leave open, and inputs of max pools that may be
    the largest of a window; not those that are outputs of such layers themselves, whose intervals follow.
    """
    values = network.values(region.x)
    reached = {source: place for place, source in network.inputs_of_nonlinear().items()}
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
        elif place in reached:
            reader = network.nodes[reached[place]].operation
            refining = _Refining(network, region, relaxations, bounds, place)
            if isinstance(reader, MaxPool):
                refining.bound_both(pool_candidates(reader, *bounds[place]))
            else:
                refining.decide_signs(values[place])
            bounds[place] = refining.lower, refining.upper
            propagated += refining.propagated
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
        self.network, self.region, self.relaxations, self.bounds = network, region, relaxations, bounds
        self.place = place
        self.lower, self.upper = (bound.clone() for bound in bounds[place])
        self.propagated = 0

    def decide_signs(self, values: Tensor) -> None:
        """Bound the neurons whose sign is open: first on the side that may decide it, by the clean values."""
        unstable = (self.lower < 0) & (self.upper > 0)
        self._bound(unstable & (values > 0), 1.0, stop_above=0.0)
        self._bound(unstable & (values <= 0), -1.0, stop_above=0.0)
        still = (self.lower < 0) & (self.upper > 0)
        self._bound(still & (values <= 0), 1.0)
        self._bound(still & (values > 0), -1.0)
        self.propagated = int(unstable.sum())

    def bound_both(self, neurons: Tensor) -> None:
        """Bound neurons from below and above."""
        self._bound(neurons, 1.0)
        self._bound(neurons, -1.0)
        self.propagated = int(neurons.sum())

    def _bound(self, neurons: Tensor, sign: float, stop_above: float | None = None) -> None:
        image, neuron = neurons.flatten(1).nonzero(as_tuple=True)
        lower, upper = self.lower.flatten(1), self.upper.flatten(1)
        for part in chunks(self.network, image):
            at, which = image[part], neuron[part]
            start, v, constant = self._start(which, sign)
            found = propagate(
                self.network,
                self.region,
                self.relaxations,
                self.bounds,
                {start: v},
                at,
                constant,
                stop_above=stop_above,
            )
            if sign > 0:
                lower[at, which] = lower[at, which].maximum(found)
            else:
                upper[at, which] = upper[at, which].minimum(-found)
        # In exact arithmetic the two cannot cross.
        self.lower, self.upper = lower.view_as(self.lower), upper.maximum(lower).view_as(self.upper)

    def _start(self, neuron: Tensor, sign: float) -> tuple[int, Tensor, Tensor | None]:
        """Return the neurons times `sign` as coefficients of a layer's values and constants."""
        node = self.network.nodes[self.place]
        if isinstance(node.operation, Affine):  # its rows are known: no need to multiply unit vectors
            before, offset = node.inputs[0], node.operation.offset
            v = sign * node.operation.rows(neuron, node.shape, self.network.nodes[before].shape)
            return before, v, None if offset is None else sign * offset.expand(node.shape).flatten()[neuron]
        units = self.lower.new_zeros(len(neuron), self.lower[0].numel())
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
