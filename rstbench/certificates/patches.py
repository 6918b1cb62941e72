"""What is known of the part of the layers that some neurons depend on: the rest need not be propagated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backward import Knowledge, Region
from .network import Network, Node
from .operations import Convolution, MaxPool, ReLU, Scaling, Shape, Sum
from .pullbacks import convolved, pullback
from .relaxations import MaxPoolLines, Relaxation, ReLULines

NEURONS = 128  # of a patch, about
# Patches are worth their overhead where they hold at most this share of at least so many values.
MOST_SHARE, LEAST_VALUES = 0.5, 10_000


@dataclass(frozen=True)
class Patch:
    """Neurons of one layer, by their places in it, and what is known of what they depend on.

    The layer at the same place of the patch's network holds these neurons alone, in this order.
    """

    known: Knowledge
    neurons: Tensor


@dataclass(frozen=True)
class _Box:
    """Rows `top` to `bottom` and columns `left` to `right` of an image, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, values: Tensor) -> Tensor:
        """Return this part of values (..., h, w)."""
        return values[..., self.top : self.bottom, self.left : self.right]

    def joined(self, other: _Box | None) -> _Box:
        """Return the least box that holds both."""
        if other is None:
            return self
        return _Box(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def shape(self, channels: int) -> Shape:
        """Return the shape of values in it."""
        return channels, self.bottom - self.top, self.right - self.left


def patches(known: Knowledge, place: int) -> list[Patch]:
    """Return the neurons of a layer in patches: all in one, where they depend on most of the network."""
    shape = known.network.nodes[place].shape
    every = torch.arange(known.network.size(place), device=known.region.x.device)
    if len(shape) == 3:
        side = max(1, round((NEURONS / shape[0]) ** 0.5))
        tiles = [
            _Box(top, min(top + side, shape[1]), left, min(left + side, shape[2]))
            for top in range(0, shape[1], side)
            for left in range(0, shape[2], side)
        ]
        middle = _boxes(known.network, place, tiles[len(tiles) // 2])
        if middle is not None and _is_worth_it(known.network, middle):
            found = []
            for tile in tiles:
                boxes = _boxes(known.network, place, tile)
                assert boxes is not None
                found.append(Patch(_cropped(known, boxes), tile.crop(every.view(shape)).flatten()))
            return found
    return [Patch(known, every)]


def _boxes(network: Network, place: int, tile: _Box) -> dict[int, _Box] | None:
    """Return which part of each layer a tile of one depends on; None where a layer has no such parts."""
    boxes = {place: tile}
    for at in range(place, 0, -1):
        if at not in boxes:
            continue
        node = network.nodes[at]
        if not _is_local(node):
            return None
        for source in node.inputs:
            read = _read_by(node, boxes[at], network.nodes[source].shape)
            boxes[source] = read.joined(boxes.get(source))
    return boxes


def _is_local(node: Node) -> bool:
    operation = node.operation
    if isinstance(operation, Convolution | Scaling):
        if operation.offset is not None and operation.offset.shape[1:].numel() > 1:
            return False
        return not isinstance(operation, Scaling) or operation.scale.shape[1:].numel() == 1
    return isinstance(operation, ReLU | MaxPool | Sum)


def _read_by(node: Node, box: _Box, before: Shape) -> _Box:
    """Return the part of the input that a part of a layer reads."""
    operation = node.operation
    if not isinstance(operation, Convolution | MaxPool):
        return box
    kernel = operation.weight.shape[2:] if isinstance(operation, Convolution) else operation.kernel
    (sh, sw), (ph, pw), (dh, dw) = operation.stride, operation.padding, operation.dilation
    return _Box(
        max(0, box.top * sh - ph),
        min(before[1], (box.bottom - 1) * sh - ph + dh * (kernel[0] - 1) + 1),
        max(0, box.left * sw - pw),
        min(before[2], (box.right - 1) * sw - pw + dw * (kernel[1] - 1) + 1),
    )


def _is_worth_it(network: Network, boxes: dict[int, _Box]) -> bool:
    """Return whether little enough of the values of these layers lies in the boxes."""
    inside = sum(torch.Size(box.shape(network.nodes[at].shape[0])).numel() for at, box in boxes.items())
    values = sum(network.size(at) for at in boxes)
    return values >= LEAST_VALUES and inside <= MOST_SHARE * values


def _cropped(known: Knowledge, boxes: dict[int, _Box]) -> Knowledge:
    """Return what is known of parts of the layers."""
    nodes = list(known.network.nodes[: max(boxes) + 1])
    relaxations: dict[int, Relaxation] = {}
    for at, box in boxes.items():
        node = nodes[at]
        shape = box.shape(node.shape[0])
        nodes[at] = replace(node, shape=shape)
        if isinstance(node.operation, Convolution):
            nodes[at] = _cropped_convolution(nodes[at], node.operation, box, boxes[node.inputs[0]], known)
        elif isinstance(node.operation, Scaling):
            nodes[at] = replace(nodes[at], back=pullback(node.operation, shape, shape))
        elif isinstance(node.operation, ReLU):
            relaxations[at] = ReLULines.over(*(box.crop(bound) for bound in known.bounds[node.inputs[0]]))
        elif isinstance(node.operation, MaxPool):
            relaxations[at] = _cropped_pool(known, at, box, boxes[node.inputs[0]])
    return Knowledge(
        Network(tuple(nodes)),
        Region(boxes[0].crop(known.region.x), known.region.norm, known.region.eps),
        {
            at: (box.crop(low), box.crop(high))
            for at, box in boxes.items()
            for low, high in [known.bounds[at]]
        },
        {at: box.crop(known.rounding[at]) for at, box in boxes.items() if at in known.rounding},
        relaxations,
    )


def _cropped_convolution(
    node: Node, operation: Convolution, box: _Box, before: _Box, known: Knowledge
) -> Node:
    """Return the layer from one part to another, as a convolution that is padded at the top and left only."""
    (sh, sw), (ph, pw) = operation.stride, operation.padding
    outside = (before.top - (box.top * sh - ph), before.left - (box.left * sw - pw))
    channels = known.network.nodes[node.inputs[0]].shape[0]
    return replace(
        node, back=convolved(replace(operation, padding=outside), before.shape(channels), node.shape)
    )


def _cropped_pool(known: Knowledge, at: int, box: _Box, before: _Box) -> MaxPoolLines:
    """Return the lines of some windows, with the places of their inputs in a part of these."""
    lines, node = known.relaxations[at], known.network.nodes[at]
    assert isinstance(lines, MaxPoolLines)
    channels, height, width = known.network.nodes[node.inputs[0]].shape
    _, rows, columns = before.shape(channels)

    def inside(places: Tensor) -> Tensor:
        found = box.crop(places.view(node.shape)).flatten()
        channel, y, x = found // (height * width), found // width % height, found % width
        return (channel * rows + y - before.top) * columns + x - before.left

    chord, intercept = (box.crop(part.view(node.shape)).flatten() for part in (lines.chord, lines.intercept))
    below, above = inside(lines.below), inside(lines.above)
    return MaxPoolLines(channels * rows * columns, below, above, chord[:, None], intercept)
