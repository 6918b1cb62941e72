"""Conv2, Conv4 and Conv6 (Frankle and Carbin, ICLR 2019): VGG-like stacks with three dense layers.

Blocks of two 3x3 convolutions and a 2x2 max-pool with 64, 128 and 256 channels, then 256, 256 and
the classes; no biases. The papers use no norm; here a norm follows every hidden layer by default.
"""

from __future__ import annotations

from torch import nn

from .network import NetworkSpec, norm_layers, scaled_width
from .traced import vgg_blocks

BLOCKS = ((64, 2), (128, 2), (256, 2))
HIDDEN = 256


def conv2(spec: NetworkSpec) -> nn.Sequential:
    """One block: 64, 64, pool."""
    return _stack(spec, 1)


def conv4(spec: NetworkSpec) -> nn.Sequential:
    """Two blocks: 64, 64, pool, 128, 128, pool."""
    return _stack(spec, 2)


def conv6(spec: NetworkSpec) -> nn.Sequential:
    """Three blocks: 64, 64, pool, 128, 128, pool, 256, 256, pool."""
    return _stack(spec, 3)


def _stack(spec: NetworkSpec, blocks: int) -> nn.Sequential:
    layers, channels = vgg_blocks(spec, BLOCKS[:blocks])
    layers.append(nn.Flatten())
    features = channels * (spec.shape[1] >> blocks) * (spec.shape[2] >> blocks)
    for _ in range(2):
        wide = scaled_width(HIDDEN, spec)
        layers += [nn.Linear(features, wide, bias=False), *norm_layers(wide, spec, flat=True), nn.ReLU()]
        features = wide
    return nn.Sequential(*layers, nn.Linear(features, spec.classes, bias=False))
