"""Pre-activation networks for CIFAR: PreActResNet-18 (He et al., ECCV 2016), and Wide ResNets
(Zagoruyko and Komodakis, BMVC 2016).

The RST paper's "WideResNet32" is, in its code, the WRN-34-10.
"""

from __future__ import annotations

from torch import Tensor, nn

from .choices import SHORTCUTS
from .network import NetworkSpec, scaled_width
from .traced import conv, global_average_pool, norm, trace


def preactresnet18(spec: NetworkSpec) -> nn.Module:
    """Build widths 64-128-256-512, two blocks each."""
    return trace(_PreAct(spec, 64, (64, 128, 256, 512), 2))


def preactresnet18_raw(spec: NetworkSpec) -> nn.Module:
    """Build the same with nothing between the last block and the pooling, as in much adversarial training:
    shortcuts from the input itself (fast_adversarial by Wong et al., RobustBench's PreActResNet18) unless
    the spec says that they begin at the activated input (kuangliu/pytorch-cifar)."""
    return trace(_PreAct(spec, 64, (64, 128, 256, 512), 2, final_norm=False))


def wrn_28_10(spec: NetworkSpec) -> nn.Module:
    """Build depth 28, widths 160-320-640, four blocks each."""
    return trace(_PreAct(spec, 16, (160, 320, 640), 4))


def wrn_34_10(spec: NetworkSpec) -> nn.Module:
    """Build depth 34, widths 160-320-640, five blocks each."""
    return trace(_PreAct(spec, 16, (160, 320, 640), 5))


class _Block(nn.Module):
    """Apply norm and ReLU before each convolution; a 1x1 shortcut where sizes change, from the activated
    input or from the input itself."""

    def __init__(self, inputs: int, outputs: int, stride: int, spec: NetworkSpec) -> None:
        super().__init__()
        self.shortcut_from_input = (spec.shortcut or SHORTCUTS.get(spec.name)) == "input"
        self.bn1, self.conv1 = norm(inputs, spec), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = norm(outputs, spec), conv(outputs, outputs, 3)
        self.changes = stride != 1 or inputs != outputs
        if self.changes:
            self.shortcut = conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.bn1(x).relu()
        out: Tensor = self.conv2(self.bn2(self.conv1(active)).relu())
        return out + (self.shortcut(x if self.shortcut_from_input else active) if self.changes else x)


class _PreAct(nn.Module):
    def __init__(
        self, spec: NetworkSpec, stem: int, widths: tuple[int, ...], depth: int, *, final_norm: bool = True
    ) -> None:
        super().__init__()
        self.final_norm = final_norm
        inputs = scaled_width(stem, spec)
        self.conv1 = conv(spec.shape[0], inputs, 3)
        groups = []
        for stage, width in enumerate(scaled_width(width, spec) for width in widths):
            blocks = []
            for index in range(depth):
                blocks.append(_Block(inputs, width, 2 if index == 0 and stage > 0 else 1, spec))
                inputs = width
            groups.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*groups)
        if final_norm:
            self.bn = norm(inputs, spec)
        self.fc = nn.Linear(inputs, spec.classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layers(self.conv1(x))
        features = self.bn(features).relu() if self.final_norm else features
        logits: Tensor = self.fc(global_average_pool(features))
        return logits
