"""A faster copy of a network for crafting adversarial images; the exact module judges them.

Batch norm in eval mode is an affine map, so it folds into the layer before it; convolutions run in
channels-last order. Logits differ from the exact ones by rounding.
"""

from __future__ import annotations

import copy

import torch
import torch.fx
from torch import Tensor, nn

from .fold import folded

AGREE = 1e-4  # largest difference of logits, relative to the largest logit, for a copy to be used


def crafting_copy(module: nn.Module, x: Tensor) -> nn.Module:
    """Return a folded channels-last copy of a network that is in eval mode and frozen.

    The module itself is returned where it cannot be traced, or where the copy's logits on x (n, c, h, w)
    differ. Gradients for images come back contiguous.
    """
    with torch.no_grad():
        exact = module(x)
    try:
        fast = ChannelsLast(folded(torch.fx.symbolic_trace(copy.deepcopy(module))))
        with torch.no_grad():
            approximate = fast(x)
    except (torch.fx.proxy.TraceError, RuntimeError, TypeError, ValueError):
        return module
    same = exact.argmax(1).equal(approximate.argmax(1))
    close = (exact - approximate).abs().max() <= AGREE * exact.abs().max()
    return fast if same and bool(close) else module


class ChannelsLast(nn.Module):
    """A network whose convolutions run in channels-last order behind contiguous images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            # AutoAttack calls `.view` on gradients: hand them back as the images came.
            x = x.view_as(x)
            x.register_hook(Tensor.contiguous)
        logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return logits
