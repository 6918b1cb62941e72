"""MobileNetV2 (Sandler et al., CVPR 2018) for small images: the first two strides are 1.

The code of the RST paper never passes a stride to its depthwise convolutions; here they have theirs.
"""

from __future__ import annotations

from torch import Tensor, nn

from .network import NetworkSpec, scaled_width
from .traced import conv, global_average_pool, norm, trace

# expansion, channels, blocks, stride of the first block
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD = 32, 1280


def mobilenetv2(spec: NetworkSpec) -> nn.Module:
    """Seventeen inverted residual blocks."""
    return trace(_MobileNetV2(spec))


class _Inverted(nn.Module):
    """1x1 up, 3x3 depthwise with the stride, 1x1 down without activation; added to x where sizes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, spec: NetworkSpec) -> None:
        super().__init__()
        wide = expansion * inputs
        up = [conv(inputs, wide, 1), norm(wide, spec), nn.ReLU6()] if expansion > 1 else []
        depthwise = [conv(wide, wide, 3, stride, groups=wide), norm(wide, spec), nn.ReLU6()]
        self.body = nn.Sequential(*up, *depthwise, conv(wide, outputs, 1), norm(outputs, spec))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.adds else out


class _MobileNetV2(nn.Module):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        inputs, head = scaled_width(STEM, spec), scaled_width(HEAD, spec)
        layers: list[nn.Module] = [conv(spec.shape[0], inputs, 3), norm(inputs, spec), nn.ReLU6()]
        for expansion, channels, depth, stride in STAGES:
            wide = scaled_width(channels, spec)
            for index in range(depth):
                layers.append(_Inverted(inputs, wide, stride if index == 0 else 1, expansion, spec))
                inputs = wide
        self.features = nn.Sequential(*layers, conv(inputs, head, 1), norm(head, spec), nn.ReLU6())
        self.fc = nn.Linear(head, spec.classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(global_average_pool(self.features(x)))
        return logits
