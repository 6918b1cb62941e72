"""The certificate by linear bounds, CROWN (Zhang et al., NeurIPS 2018), and with optimised slopes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..threat import Threat
from .linear_bounds import LinearBounds, linear_bounds, margins_by
from .slopes import optimised_margins
from .spec import Certified
from .verdicts import Question, question


@dataclass(frozen=True)
class Crown:
    """Backward linear bound propagation; every layer takes the tighter of interval and linear bound.

    Args:
        alpha: Gradient steps on the lower slopes of the ReLUs, for the margins alone (Xu et al., ICLR 2021).
            Each margin keeps the best bound that was seen, so that more steps are never weaker.
    """

    alpha: int = 0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")

    @torch.no_grad()
    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Certified:
        asked = question(module, x, y, threat)
        margins, known = crown_margins(asked, self.alpha)
        return asked.certified(margins, known)[0]


def crown_margins(asked: Question, alpha: int = 0) -> tuple[Tensor, LinearBounds]:
    """Return lower bounds of the margins (right images, classes − 1), and the bounds of all layers."""
    network, region = asked.network, asked.region
    known = linear_bounds(network, region)
    by_intervals = margins_by(network, region, known, asked.y, intervals=True)
    margins = margins_by(network, region, known, asked.y).maximum(by_intervals)
    if alpha:
        margins = margins.maximum(optimised_margins(network, region, known, asked.y, alpha))
    return margins, known
