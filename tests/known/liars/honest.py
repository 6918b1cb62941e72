"""Honest models of many kinds, which are to raise no alarm, and the small network that the liars wrap.

`HONEST` are those of the published table; AutoAttack on `LARGER` takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import rstbench
from rstbench.networks.network import NetworkSpec, build

DIGITS = Path(__file__).parents[3] / "leaderboards" / "digits"
COMMITTED = {
    "dense-natural": "checkpoint:checkpoints/dense-natural-seed0",
    "dense-adversarial": "checkpoint:checkpoints/dense-adversarial-seed0",
    "ticket-0.2": "ticket:tickets/rst-0.2-seed0",
}


def perceptron(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), activation(), nn.Linear(32, 10))


def convolutional() -> nn.Sequential:
    """Two convolutions with batch norm, dropout, and a linear layer."""
    first = [nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*first, nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


class Attention(nn.Module):
    """A transformer on the sixteen patches of 2x2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Conv2d(1, 16, 2, 2), nn.Parameter(torch.zeros(16, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x).flatten(2).mT + self.place).mean(1))


class Counting(nn.Module):
    """Counts its calls, and remembers the last batch, but answers by the image alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls, self.last = net, 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.last = self.calls + 1, x.detach()
        return self.net(x)


class WidePixels(nn.Module):
    """Computes with pixels from 0 to 255."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((255 * x - 127) / 128)


class Half(nn.Module):
    """Computes in bfloat16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(torch.bfloat16)).float()


def trained(net: nn.Module, epochs: int = 8) -> nn.Module:
    """Train a network on the digits, the same each time; a second or two."""
    x, y = rstbench.load_data("digits:train").at(slice(None))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.requires_grad_(False).eval()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(make())


@cache
def small() -> nn.Module:
    """The network that the liars wrap."""
    return seeded(perceptron)


def resnet_start() -> nn.Module:
    """A narrow ResNet-18 with batch norm, as it starts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(NetworkSpec("resnet18", (1, 8, 8), 10, 0.1)).requires_grad_(False).eval()


def committed(name: str) -> nn.Module:
    source, _, file = COMMITTED[name].partition(":")
    return rstbench.load_model(f"{source}:{DIGITS / file}.safetensors")


def steady() -> nn.Sequential:
    """Batch norm and dropout, between two linear layers."""
    middle = [nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *middle, nn.Linear(32, 10))


HONEST: dict[str, Callable[[], nn.Module]] = {
    "relu": small,
    "gelu": lambda: seeded(lambda: perceptron(nn.GELU)),
    "silu": lambda: seeded(lambda: perceptron(nn.SiLU)),
    "softplus": lambda: seeded(lambda: perceptron(nn.Softplus)),
    "norm-dropout": lambda: seeded(steady),
    "linear": lambda: seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),
    "traced": lambda: torch.jit.trace(small(), torch.zeros(2, 1, 8, 8)),
    "counting": lambda: Counting(small()),
    "bfloat16": lambda: Half(seeded(perceptron)),
    "wide-pixels": lambda: WidePixels(seeded(perceptron)),
}
LARGER: dict[str, Callable[[], nn.Module]] = {
    "convolutional": lambda: seeded(convolutional),
    "attention": lambda: seeded(Attention),
    "resnet18-start": resnet_start,
    **{name: (lambda name=name: committed(name)) for name in COMMITTED},
}
