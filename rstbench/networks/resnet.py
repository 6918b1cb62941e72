"""ResNet-18, 34 and 50 (He et al., CVPR 2016) with the CIFAR stem: one 3x3 convolution, no max-pool.

Post-activation blocks. The RST paper's code calls this ResNet-18 "PreActResNet18"; the true
pre-activation network is in `preact`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .network import NetworkSpec, scaled_width
from .traced import conv, global_average_pool, norm, trace

WIDTHS = (64, 128, 256, 512)


def resnet18(spec: NetworkSpec) -> nn.Module:
    """Build basic blocks 2-2-2-2."""
    return trace(_ResNet(spec, (2, 2, 2, 2), _Basic))


def resnet34(spec: NetworkSpec) -> nn.Module:
    """Build basic blocks 3-4-6-3."""
    return trace(_ResNet(spec, (3, 4, 6, 3), _Basic))


def resnet50(spec: NetworkSpec) -> nn.Module:
    """Bottleneck blocks 3-4-6-3."""
    return trace(_ResNet(spec, (3, 4, 6, 3), _Bottleneck))


class _Block(nn.Module):
    """body(x) + shortcut(x), then ReLU."""

    growth = 1

    def __init__(self, inputs: int, outputs: int, stride: int, spec: NetworkSpec) -> None:
        super().__init__()
        same = stride == 1 and inputs == outputs
        branch = [conv(inputs, outputs, 1, stride), norm(outputs, spec)]
        self.shortcut = nn.Sequential(*([] if same else branch))

    body: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return out


class _Basic(_Block):
    def __init__(self, inputs: int, width: int, stride: int, spec: NetworkSpec) -> None:
        super().__init__(inputs, width, stride, spec)
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), norm(width, spec)
        self.conv2, self.bn2 = conv(width, width, 3), norm(width, spec)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return out


class _Bottleneck(_Block):
    growth = 4

    def __init__(self, inputs: int, width: int, stride: int, spec: NetworkSpec) -> None:
        super().__init__(inputs, self.growth * width, stride, spec)
        self.conv1, self.bn1 = conv(inputs, width, 1), norm(width, spec)
        self.conv2, self.bn2 = conv(width, width, 3, stride), norm(width, spec)
        self.conv3, self.bn3 = conv(width, self.growth * width, 1), norm(self.growth * width, spec)

    def body(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        out: Tensor = self.bn3(self.conv3(x))
        return out


class _ResNet(nn.Module):
    def __init__(self, spec: NetworkSpec, depths: tuple[int, ...], block: type[_Block]) -> None:
        super().__init__()
        widths = [scaled_width(width, spec) for width in WIDTHS]
        self.conv1, self.bn1 = conv(spec.shape[0], widths[0], 3), norm(widths[0], spec)
        inputs = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                blocks.append(block(inputs, width, 2 if index == 0 and stage > 1 else 1, spec))
                inputs = block.growth * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, spec.classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(global_average_pool(x))
        return logits
