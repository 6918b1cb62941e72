"""A third party's package: a model, a data set and two attacks."""

from dataclasses import dataclass

import torch

from rstbench.attacks import Crafted


def stripes(name, split, root):
    """Upright stripes are class 0, level ones class 1."""
    pixels = torch.zeros(12, 1, 4, 4)
    labels = torch.arange(len(pixels)) % 2
    pixels[labels == 0, :, :, ::2] = 0.6
    pixels[labels == 1, :, ::2, :] = 0.6
    return pixels, labels, 2


class Stripes(torch.nn.Module):
    def forward(self, x):
        upright = (x[:, 0, :, ::2] - x[:, 0, :, 1::2]).flatten(1).sum(1).abs()
        level = (x[:, 0, ::2] - x[:, 0, 1::2]).flatten(1).sum(1).abs()
        return torch.stack([upright, level], 1)


def model(id, **options):
    if id == "wide":
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 7))
    return Stripes()


@dataclass(frozen=True)
class Grey:
    """Moves every pixel towards one half as far as it may."""

    strength: float = 1.0

    def __call__(self, model, x, y, threat, generator):
        return Crafted(threat.project(x, x + self.strength * (0.5 - x)))


class Cheat:
    """Leaves the ball."""

    def __call__(self, model, x, y, threat, generator):
        return Crafted(1 - x)
