"""Networks with branches as modules of torch's classes only.

A network is written with blocks of our own and then traced into a `torch.fx.GraphModule`: the same
layers under the same names, the branches in the graph. So a ticket of a residual network is, like one of
a plain stack, loadable where this package is not.
"""

from __future__ import annotations

import torch.fx
from torch import Tensor, nn

from .network import NetworkSpec


def traced(net: nn.Module) -> nn.Module:
    """The network as a graph of torch's own layers; equal state-dict keys, equal results."""
    return torch.fx.symbolic_trace(net)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1, without bias."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def norm(channels: int, spec: NetworkSpec) -> nn.Module:
    """Batch norm as the spec says; without it the identity, so that every network has one shape."""
    return nn.Identity() if spec.norm == "none" else nn.BatchNorm2d(channels, affine=spec.norm == "affine")


def pooled(x: Tensor) -> Tensor:
    """Global average over the image: (n, c, h, w) to (n, c)."""
    return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
