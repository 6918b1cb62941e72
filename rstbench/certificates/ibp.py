"""The certificate by interval bounds (Gowal et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..threat import Threat
from .intervals import interval_knowledge
from .linear_bounds import margins_of
from .spec import Certified
from .verdicts import question


@dataclass(frozen=True)
class IBP:
    """Interval bound propagation, with the margins taken as rows of the last linear layers.

    It costs a forward pass or two, and is of use for networks that were trained for it.
    """

    @torch.no_grad()
    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Certified:
        asked = question(module, x, y, threat)
        known = (interval_knowledge(asked.network, asked.region.of_image(i)) for i in range(len(asked.y)))
        labels = asked.y.tolist()
        return asked.certified(
            [margins_of(k, label, intervals=True) for k, label in zip(known, labels, strict=True)]
        )
