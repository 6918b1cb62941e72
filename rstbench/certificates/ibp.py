"""The certificate by interval bounds (Gowal et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..threat import Threat
from .linear_bounds import interval_knowledge, margins_by
from .spec import Certified
from .verdicts import question


@dataclass(frozen=True)
class IBP:
    """Interval bound propagation, with the margins taken as rows of the last linear layers.

    A forward pass or two: fast, and of use for networks that were trained for it.
    """

    @torch.no_grad()
    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Certified:
        asked = question(module, x, y, threat)
        known = interval_knowledge(asked.network, asked.region)
        margins = margins_by(asked.network, asked.region, known, asked.y, intervals=True)
        return asked.certified(margins, known)[0]
