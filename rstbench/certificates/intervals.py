"""Interval bounds of every layer's values (Gowal et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .network import Network, Node
from .operations import Affine, ReLU, Sum
from .relaxations import Bounds


def node_interval(node: Node, bounds: Mapping[int, Bounds]) -> Bounds:
    """Return the interval of a layer's values from those of the layers that it reads."""
    lower, upper = bounds[node.inputs[0]]
    operation = node.operation
    if isinstance(operation, Affine):
        centre, radius = operation.apply((lower + upper) / 2), operation.linear((upper - lower) / 2, magnitude=True)
        return centre - radius, centre + radius
    if isinstance(operation, Sum):
        other_lower, other_upper = bounds[node.inputs[1]]
        return lower + other_lower, upper + other_upper
    if isinstance(operation, ReLU):
        return lower.clamp_min(0), upper.clamp_min(0)
    assert operation is not None, "the input's interval is the region's"
    return operation.apply(lower), operation.apply(upper)


def interval_bounds(network: Network, box: Bounds) -> dict[int, Bounds]:
    """Return the interval of each layer's values by its place.

    box: least and largest pixels (n, c, h, w), float64.
    """
    bounds: dict[int, Bounds] = {0: box}
    for place, node in enumerate(network.nodes):
        if place:
            bounds[place] = node_interval(node, bounds)
    return bounds


def largest_magnitude(bounds: Bounds) -> Tensor:
    """Return the largest magnitude in each interval."""
    return bounds[0].abs().maximum(bounds[1].abs())
