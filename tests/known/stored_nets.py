"""A small network with branches, and its state dict, for tests of checkpoints."""

from __future__ import annotations

import torch
from torch import nn

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.shortcut(x)).relu()


class Net(nn.Module):
    """kuangliu/pytorch-cifar's ResNet for grey images, an eighth as wide or more."""

    def __init__(self, depths=(2, 2, 2, 2), wide=8, classes=10, channels=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wide, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        inputs = wide
        for place, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                blocks.append(Block(inputs, wide * 2**place, 2 if index == 0 and place else 1))
                inputs = wide * 2**place
            setattr(self, f"layer{place + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        return self.linear(out.mean((2, 3)))


def made(seed=0, **sizes):
    torch.manual_seed(seed)
    net = Net(**sizes)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    return net.eval()


NET = made()


STATE = NET.state_dict()


WEIGHTS = [name for name, tensor in STATE.items() if tensor.dim() > 1]


BITS = {name: torch.rand(STATE[name].shape) < 0.5 for name in WEIGHTS}


def agree(entry, net, change=lambda x: x):
    with torch.no_grad():
        wanted = net(change(X))
        assert torch.allclose(entry.module(X), wanted, atol=1e-5 * float(wanted.abs().max()))
