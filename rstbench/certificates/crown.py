"""The certificate by linear bounds, CROWN (Zhang et al., NeurIPS 2018), and with optimised slopes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..threat import Threat
from .linear_bounds import LinearBounds, Margins, linear_bounds, margins_of
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

    @property
    def passes(self) -> int:
        """About as many passes as an image of a small network costs."""
        return 5_000 + 250 * self.alpha

    @torch.no_grad()
    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Certified:
        asked = question(module, x, y, threat)
        found = [crown_margins(asked, index, self.alpha)[0] for index in range(len(asked.y))]
        return asked.certified(found)


def crown_margins(asked: Question, index: int, alpha: int = 0) -> tuple[Margins, LinearBounds]:
    """Return lower bounds of one image's margins, and what is known of all layers."""
    bounds, label = linear_bounds(asked.network, asked.region.of_image(index)), int(asked.y[index])
    known = bounds.known
    margins = margins_of(known, label).or_better(margins_of(known, label, intervals=True).least)
    if alpha and not bool((margins.least > 0).all()):
        margins = margins.or_better(optimised_margins(known, label, alpha))
    return margins, bounds
