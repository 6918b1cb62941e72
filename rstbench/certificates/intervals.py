"""Interval bounds of every layer's values (Gowal et al. 2018), as the module computes them in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .backward import Knowledge, Region
from .network import Network, Node
from .operations import Affine, ReLU, Sum
from .relaxations import Bounds
from .rounding import rounding_of


def node_interval(node: Node, bounds: Mapping[int, Bounds], rounding: Tensor | None) -> Bounds:
    """Return the interval of a layer's values from those of the layers that it reads.

    rounding: what the module may add to each value.
    """
    lower, upper = bounds[node.inputs[0]]
    operation = node.operation
    if isinstance(operation, Affine):
        centre = operation.apply((lower + upper) / 2)
        radius = operation.linear((upper - lower) / 2, magnitude=True)
        lower, upper = centre - radius, centre + radius
    elif isinstance(operation, Sum):
        other_lower, other_upper = bounds[node.inputs[1]]
        lower, upper = lower + other_lower, upper + other_upper
    elif isinstance(operation, ReLU):
        lower, upper = lower.clamp_min(0), upper.clamp_min(0)
    else:
        assert operation is not None, "the input's interval is the region's"
        lower, upper = operation.apply(lower), operation.apply(upper)
    return (lower, upper) if rounding is None else (lower - rounding, upper + rounding)


def learn_interval(known: Knowledge, place: int) -> None:
    """Add the interval of a layer's values, and what the module may add to them, to what is known."""
    if place == 0:
        known.bounds[0] = known.region.box()
        return
    node = known.network.nodes[place]
    rounding = rounding_of(node.operation, [known.bounds[source] for source in node.inputs])
    if rounding is not None:
        known.rounding[place] = rounding
    known.bounds[place] = node_interval(node, known.bounds, rounding)


@torch.no_grad()
def interval_knowledge(network: Network, region: Region) -> Knowledge:
    """Return the interval of each layer's values for one image."""
    known = Knowledge(network, region, {}, {}, {})
    for place in range(len(network.nodes)):
        learn_interval(known, place)
    return known
