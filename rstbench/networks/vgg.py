"""VGG-16 with batch norm (Simonyan and Zisserman, ICLR 2015) for small images: 13 convolutions and one
linear layer, as in the code of the RST paper."""

from __future__ import annotations

from torch import nn

from .network import NetworkSpec
from .traced import vgg_blocks

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(spec: NetworkSpec) -> nn.Sequential:
    """Five blocks, each ending in a 2x2 max-pool; images of 32 pixels at least."""
    layers, channels = vgg_blocks(spec, BLOCKS)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, spec.classes, bias=False)]
    return nn.Sequential(*layers, *head)
