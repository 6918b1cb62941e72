"""Normalise pixels in [0, 1] in the first layer of a network."""

from __future__ import annotations

from math import isfinite

import torch
import torch.fx
from torch import Tensor, nn

from ..errors import BadRequest

# Means and standard deviations of [0, 1] pixels as the field's code writes them: torchvision's reference
# for ImageNet, the constants of most CIFAR code, of PyTorch's MNIST example; one number for all channels:
# SVHN's plain 0.5, which gives [-1, 1], and grey levels 0..255, as Caffe's and many Keras models want.
KNOWN: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.1307,), (0.3081,)),
    "half": ((0.5,), (0.5,)),
    "bytes": ((0.0,), (1 / 255,)),
}


class _Normalise(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def normalisation_layer(mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """Return (x - mean) / std for images (n, c, h, w), the same in both modes, as a traced module."""
    return torch.fx.symbolic_trace(_Normalise(mean, std)).eval()


def is_normalisation_layer(module: nn.Module) -> bool:
    """Return whether a module is such a layer."""
    return isinstance(module, torch.fx.GraphModule) and {n for n, _ in module.named_buffers()} == {
        "mean",
        "std",
    }


def parse_normalisation(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Parse a name or MEAN/STD into (mean, std) of each channel, or one for all. Raises BadRequest."""
    if text in KNOWN:
        return KNOWN[text]
    try:
        mean, std = (tuple(float(part) for part in side.split("+")) for side in text.split("/"))
    except ValueError:
        mean, std = (), ()
    channels = {len(side) for side in (mean, std) if len(side) != 1}
    if (
        not mean
        or not std
        or len(channels) > 1
        or not all(map(isfinite, mean))
        or not all(0 < value < 1e6 for value in std)
    ):
        names = ", ".join(KNOWN)
        raise BadRequest(
            f"normalize is one of {names}, or MEAN/STD such as 0.49+0.48+0.45/0.25, got {text!r}"
        )
    return mean, std
