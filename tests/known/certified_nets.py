"""Small networks that certificates are tested on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from rstbench.networks.normalise import normalisation_layer


class Residual(nn.Module):
    """A block with a strided shortcut, as in the networks of this package, behind a normalisation."""

    def __init__(self):
        super().__init__()
        self.normalise = normalisation_layer((0.4, 0.5), (0.3, 0.2))
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4, affine=False)
        self.shortcut = nn.Conv2d(2, 4, 1, 2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.normalise(x)
        out = torch.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.shortcut(x))
        return self.fc(functional.adaptive_avg_pool2d(out, 1).flatten(1))


class Functional(nn.Module):
    """Functions and methods in place of layers, a norm that nothing can take in, a reshape."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(2)
        self.conv = nn.Conv2d(2, 4, (3, 2), (1, 2), padding=1, dilation=(1, 2))
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = functional.relu(self.conv(self.bn((x - 0.5) * 2)))
        x = functional.dropout(functional.max_pool2d(x, 2, 1, 1), 0.5, self.training)
        x = functional.avg_pool2d(x, (2, 1), 2).contiguous()
        return self.fc(x.reshape(x.size(0), -1)) / 3 + 1.0


def network_named(name):
    """A small network in eval mode for images (2, 6, 6), with norms that have seen something."""
    torch.manual_seed(1)
    nets = {
        "padding": lambda: [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU()],
        "stride": lambda: [nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2, 2)],
        "grouped": lambda: [nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)],
        "same": lambda: [nn.Conv2d(2, 4, 3, padding="same", dilation=2), nn.ReLU(), nn.Dropout()],
        "maxpool": lambda: [
            nn.Conv2d(2, 4, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 2),
            nn.ReLU(),
        ],
        "pool-first": lambda: [
            nn.Conv2d(2, 4, 3, 1, 1),
            nn.MaxPool2d(3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 2),
        ],
        "pool-of-pixels": lambda: [nn.MaxPool2d(2), nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Identity()],
        "avgpool": lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 3, 1), nn.ReLU()],
        "global": lambda: [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)],
    }
    if name == "residual":
        net = Residual()
    elif name == "functional":
        net = Functional()
    else:
        layers = nn.Sequential(*nets[name](), nn.Flatten())
        width = layers.eval()(torch.zeros(1, 2, 6, 6)).shape[1]
        net = nn.Sequential(*layers, nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    net.train()
    for _ in range(3):
        net(torch.rand(32, 2, 6, 6))
    return net.eval().requires_grad_(False)


ALL = ["padding", "stride", "grouped", "same", "maxpool", "pool-first", "pool-of-pixels", "avgpool", "global"]
ALL += ["residual", "functional"]
LOCAL = ["padding", "stride", "same", "maxpool", "pool-first", "grouped", "global", "residual"]


def points(threat, x, count, generator):
    """Random points of each ball in the box, and corners of it, (count, n, c, h, w)."""
    found = [threat.sample(x, generator) for _ in range(count // 2)]
    for _ in range(count - len(found)):
        direction = torch.randn(x.shape, generator=generator)
        found.append(threat.project(x, x + 10 * float(threat.eps) * threat.steepest(direction)))
    return torch.stack(found)


def linear(seed, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).requires_grad_(False).eval()
