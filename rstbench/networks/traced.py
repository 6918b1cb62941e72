"""Trace networks with branches into modules of torch's classes only.

A network is written with blocks of this package and then traced into a `torch.fx.GraphModule`: the same
layers under the same names, the branches in the graph. So a ticket of a residual network can be loaded, like
one of a plain stack, where this package is not installed. The name of the traced class is part of the text of
the module, and so of the digests of models: it does not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.fx
from torch import Tensor, nn

from ..errors import BadRequest
from .network import NetworkSpec, norm_layers, scaled_width


def trace(net: nn.Module) -> nn.Module:
    """Return the network as a graph of torch's own layers; equal state-dict keys, equal results."""
    return torch.fx.symbolic_trace(net)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size at stride 1, without bias."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def norm(channels: int, spec: NetworkSpec) -> nn.Module:
    """Return batch norm as the spec says; without it the identity, so that layer names stay the same."""
    return nn.Identity() if spec.norm == "none" else nn.BatchNorm2d(channels, affine=spec.norm == "affine")


def vgg_blocks(spec: NetworkSpec, blocks: Sequence[tuple[int, int]]) -> tuple[list[nn.Module], int]:
    """Return blocks of (width, depth) 3x3 convolutions, each ending in a 2x2 max-pool, and the last width.

    Raises BadRequest for images that are too small.
    """
    channels, height, width = spec.shape
    if min(height, width) < 2 ** len(blocks):
        raise BadRequest(f"{spec.name} halves the image {len(blocks)} times; {height}x{width} is too small")
    layers: list[nn.Module] = []
    for base, depth in blocks:
        wide = scaled_width(base, spec)
        for _ in range(depth):
            layers += [conv(channels, wide, 3), *norm_layers(wide, spec), nn.ReLU()]
            channels = wide
        layers.append(nn.MaxPool2d(2))
    return layers, channels


def global_average_pool(x: Tensor) -> Tensor:
    """Average over the image: (n, c, h, w) to (n, c)."""
    return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
