"""Bounds of every layer by backward linear propagation, where intervals leave something open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backward import Knowledge, Region, propagate
from .intervals import learn_interval
from .network import Network
from .operations import Affine, MaxPool, ReLU
from .patches import patches
from .pullbacks import trimmed, unit_vectors
from .relaxations import Bounds, MaxPoolLines, ReLULines
from .windows import candidates, leaders

# Bytes of the coefficients of the widest layer that are propagated at once: what a processor's caches hold,
# and what keeps a GPU busy.
CHUNK = {"cpu": 2**21, "cuda": 2**28}


@dataclass(frozen=True)
class LinearBounds:
    """What linear bounds tell of one image.

    propagated: how many neurons were bounded by propagation.
    """

    known: Knowledge
    propagated: int


def linear_bounds(network: Network, region: Region) -> LinearBounds:
    """Bound every layer's values for one image, each by the tighter of interval and linear bound.

    Propagated are the inputs of ReLUs whose sign the intervals leave open and, where a max pool follows,
    those that may be the largest of a window; not inputs that are outputs of such layers themselves.
    """
    known = Knowledge(network, region, {}, {}, {})
    values = network.values(region.x)
    refined = {source: place for place, source in network.inputs_of_nonlinear().items()}
    propagated = 0
    for place, node in enumerate(network.nodes):
        learn_interval(known, place)
        if isinstance(node.operation, ReLU):
            known.relaxations[place] = ReLULines.over(*known.bounds[node.inputs[0]])
            _trim(known, place)
        elif isinstance(node.operation, MaxPool):
            known.relaxations[place] = MaxPoolLines.over(node.operation, *known.bounds[node.inputs[0]])
            _trim(known, place)
        elif place in refined:
            refining = _Refining(known, place, values[place])
            pool = network.pool_after(refined[place])
            if pool is None:
                refining.decide_signs()
            else:
                refining.decide_windows(pool, isinstance(network.nodes[refined[place]].operation, ReLU))
            known.bounds[place] = refining.bounds()
            propagated += refining.propagated()
    return LinearBounds(known, propagated)


def _trim(known: Knowledge, place: int) -> None:
    """Trim the affine layer that only the relaxation at `place` reads, or only through a ReLU."""
    network, read = known.network, known.relaxations[place].read()
    source = network.nodes[place].inputs[0]
    if isinstance(network.nodes[source].operation, ReLU) and len(network.readers(source)) == 1:
        read, source = read & known.relaxations[source].read(), network.nodes[source].inputs[0]
    node = network.nodes[source]
    if node.back is None or len(network.readers(source)) > 1:
        return
    before = node.inputs[0]
    lines = known.relaxations.get(before)
    if isinstance(lines, ReLULines):
        needed = lines.read()  # the values of dead ReLUs are zero: their coefficients do not matter
    else:
        needed = torch.ones(network.size(before), dtype=torch.bool, device=read.device)
    known.trimmed[source] = trimmed(node.back, read.nonzero()[:, 0], needed.nonzero()[:, 0])


class _Refining:
    """Tightens the interval of one layer's values; `values` are the clean image's."""

    def __init__(self, known: Knowledge, place: int, values: Tensor) -> None:
        self.known, self.place, self.values = known, place, values
        lower, upper = known.bounds[place]
        # Of each side: the bounds, and which of them are linear ones by now.
        self.sides = {sign: sign * bound.flatten() for sign, bound in ((1, lower), (-1, upper))}
        self.patches = patches(known, place)
        self.done = {sign: torch.zeros_like(bound, dtype=torch.bool) for sign, bound in self.sides.items()}

    def bounds(self) -> Bounds:
        """Return the tightened intervals (1, *shape). In exact arithmetic the two ends cannot cross."""
        lower, upper = self.sides[1], -self.sides[-1]
        return lower.view_as(self.values), upper.maximum(lower).view_as(self.values)

    def propagated(self) -> int:
        """Return how many neurons were bounded by propagation."""
        return int((self.done[1] | self.done[-1]).sum())

    def decide_signs(self) -> None:
        """Bound the neurons whose sign is open: first on the side that may decide it, by the clean values."""
        positive = self.values > 0
        for sign, likely in ((1, positive), (-1, ~positive)):
            self._bound(self._unstable() & likely, sign, stop_above=0.0)
        for sign in (1, -1):
            self._bound(self._unstable(), sign)

    def decide_windows(self, pool: MaxPool, rectified: bool) -> None:
        """Bound the neurons that may be the largest of a window, and their signs where they are `rectified`.

        First the largest clean values from below, which may decide a window; then from above what is left,
        then from below.
        """

        def open_ones() -> Tensor:
            lower, upper = (bound.clamp_min(0) if rectified else bound for bound in self.bounds())
            return candidates(pool, lower, upper)

        def unsigned() -> Tensor:
            return self._unstable() if rectified else torch.zeros_like(first)

        first = leaders(pool, self.values)
        self._bound(first & (unsigned() | open_ones()), 1)
        self._bound(open_ones() | (first & unsigned()), -1)
        self._bound(open_ones(), 1)

    def _unstable(self) -> Tensor:
        lower, upper = self.bounds()
        return (lower < 0) & (upper > 0)

    def _bound(self, neurons: Tensor, sign: int, stop_above: float | None = None) -> None:
        """Bound neurons, a mask (1, *shape), from below, or from above for sign −1."""
        asked, side = neurons.flatten() & ~self.done[sign], self.sides[sign]
        for patch in self.patches:
            places = asked[patch.neurons].nonzero()[:, 0]
            for part in chunks(patch.known.network, len(places), places.device):
                start, v, constant = _start(patch.known, self.place, places[part], sign)
                found = propagate(patch.known, start, v, constant, stop_above=stop_above)
                neuron = patch.neurons[places[part]]
                side[neuron] = side[neuron].maximum(found)
        self.done[sign] |= asked


def _start(known: Knowledge, place: int, neuron: Tensor, sign: int) -> tuple[int, Tensor, Tensor]:
    """Return neurons of a layer times `sign` as functions of what it reads, with their constants."""
    node = known.network.nodes[place]
    constant = torch.zeros(len(neuron), dtype=torch.float64, device=neuron.device)
    if node.back is None or not isinstance(node.operation, Affine):
        return place, sign * unit_vectors(neuron, known.network.size(place)), constant
    if place in known.rounding:
        constant = constant - known.rounding[place].flatten()[neuron]
    if node.operation.offset is not None:
        constant = constant + sign * node.operation.offset.expand(node.shape).flatten()[neuron]
    return node.inputs[0], sign * node.back.pick(neuron), constant


def chunks(network: Network, rows: int, device: torch.device) -> Iterator[slice]:
    """Yield parts of rows such that the coefficients of the widest layer fit into memory."""
    widest = max(network.size(place) for place in range(len(network.nodes)))
    size = max(1, CHUNK.get(device.type, 2**21) // (8 * widest))
    for first in range(0, rows, size):
        yield slice(first, first + size)


def margin_rows(label: int, classes: int, device: torch.device) -> Tensor:
    """Return logit_label − logit_k for each other class k as functions of the logits (classes, rows)."""
    unit = torch.eye(classes, dtype=torch.float64, device=device)
    others = [k for k in range(classes) if k != label]
    return unit[:, [label]] - unit[:, others]


@dataclass(frozen=True)
class Margins:
    """Lower bounds of one image's margins (classes − 1,), and what rounding takes from them at most."""

    least: Tensor
    error: float

    def or_better(self, other: Tensor) -> Margins:
        """Return the better bound of each margin."""
        return replace(self, least=self.least.maximum(other))


def margins_of(known: Knowledge, label: int, *, intervals: bool = False) -> Margins:
    """Return lower bounds of one image's margins by lines, or by intervals of what the last layers read."""
    last, exact = len(known.network.nodes) - 1, replace(known, rounding={})
    rows = margin_rows(label, known.network.nodes[-1].shape[0], known.region.x.device)
    relaxations = {} if intervals else known.relaxations
    least, without = (
        torch.cat(
            [
                propagate(facts, last, rows[:, part], relaxations=relaxations)
                for part in chunks(known.network, rows.shape[1], rows.device)
            ]
        )
        for facts in (known, exact)
    )
    return Margins(least, float((without - least).amax()))
