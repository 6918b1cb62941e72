"""VGG-16 with batch norm (Simonyan and Zisserman, ICLR 2015) for small images: 13 convolutions and one
linear layer, as in the code of the RST paper."""

from __future__ import annotations

from torch import nn

from ..errors import BadRequest
from .network import NetworkSpec, norm_layers, scaled_width
from .traced import conv

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(spec: NetworkSpec) -> nn.Sequential:
    """Five blocks, each ending in a 2x2 max-pool; images of 32 pixels at least."""
    channels, height, width = spec.shape
    if min(height, width) < 32:
        raise BadRequest(f"vgg16 halves the image five times; {height}x{width} is too small")
    layers: list[nn.Module] = []
    for base, depth in BLOCKS:
        wide = scaled_width(base, spec)
        for _ in range(depth):
            layers += [conv(channels, wide, 3), *norm_layers(wide, spec), nn.ReLU()]
            channels = wide
        layers.append(nn.MaxPool2d(2))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, spec.classes, bias=False)]
    return nn.Sequential(*layers, *head)
