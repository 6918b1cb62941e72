"""Which weights a ticket keeps: edge-popup as a parametrization of ordinary layers.

Each prunable weight gets a score of its own shape. The forward pass uses the weights whose scores
are largest in magnitude; the backward pass treats the mask as |score| (Ramanujan et al., CVPR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from ..errors import BadRequest


def parse_remaining(text: str | float) -> Fraction:
    """The kept fraction as the exact decimal that was written: '0.1' is 1/10."""
    try:
        remaining = Fraction(Decimal(str(text).strip()))
    except (ArithmeticError, ValueError):  # no number, or one that is not finite
        remaining = Fraction(0)
    if not 0 < remaining <= 1:
        raise BadRequest(f"remaining is the kept fraction, a decimal above 0 and at most 1, got {text!r}")
    return remaining


def kept_count(remaining: Fraction, weights: int, rule: str = "ceil") -> int:
    """How many of `weights` weights stay.

    'ceil' is ceil(k n) exactly. 'authors' is n - int((1 - k) n) in floating point, as in the RST
    code: one more where (1 - k) n falls just below a whole number (4,609 of 5,120 for k = 0.9).
    """
    if rule == "authors":
        return weights - int((1 - float(remaining)) * weights)
    if rule != "ceil":
        raise BadRequest(f"kept-count must be 'ceil' or 'authors', got {rule!r}")
    return math.ceil(remaining * weights)


def hard_mask(scores: Tensor, kept: int) -> Tensor:
    """Boolean mask of the `kept` entries of largest |score|, of the scores' shape."""
    magnitude = scores.detach().abs().flatten()
    mask = torch.zeros(magnitude.shape, dtype=torch.bool, device=scores.device)
    mask[magnitude.topk(kept, sorted=False).indices] = True
    return mask.view(scores.shape)


def keep_top(scores: Tensor, kept: int) -> Tensor:
    """The same mask as 0.0 and 1.0 exactly, with the gradient of |scores|.

    The gradient of a score is g * sign(score), g being the gradient of its mask entry, for kept and
    dropped entries alike. Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted
    Neural Network?".
    """
    magnitude = scores.abs()
    # (m - m) is exactly zero; hard + m - m would round.
    return hard_mask(scores, kept).to(scores.dtype) + (magnitude - magnitude.detach())


class Popup(nn.Module):
    """Parametrization of a frozen weight by its scores, the only parameter."""

    def __init__(self, scores: Tensor, kept: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.kept = kept

    def forward(self, weight: Tensor) -> Tensor:
        return weight * keep_top(self.scores, self.kept)


class Fixed(nn.Module):
    """Parametrization of a learnt weight by a mask that stays."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return masked(weight, self.mask)


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight where the mask is true, else +0.0 (`weight * mask` would leave -0.0 behind)."""
    return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


def random_scores(weight: Tensor, generator: Generator) -> Tensor:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the published start (kaiming_uniform with a = sqrt 5)."""
    bound = 1 / math.sqrt(weight[0].numel())
    return (2 * torch.rand(weight.shape, generator=generator) - 1) * bound


def put_scores(net: nn.Module, kept: Mapping[str, int], generator: Generator) -> dict[str, nn.Parameter]:
    """Freezes a network and puts random scores on the weights named in `kept`; returns the scores.

    The module belongs to the search from now on: the parametrization is never taken off, a ticket
    is exported into a fresh one.
    """
    net.requires_grad_(False)
    scores: dict[str, nn.Parameter] = {}
    for name, count in kept.items():
        layer, weight = _owner(net, name)
        popup = Popup(random_scores(weight, generator).to(weight), count)
        parametrize.register_parametrization(layer, "weight", popup)
        scores[name] = popup.scores
    return scores


def fix(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Puts fixed masks on the weights of a network that is about to be trained."""
    for name, mask in masks.items():
        layer, weight = _owner(net, name)
        parametrize.register_parametrization(layer, "weight", Fixed(mask.to(weight.device)))


def _owner(net: nn.Module, name: str) -> tuple[nn.Module, Tensor]:
    layer = net.get_submodule(name.removesuffix("weight").removesuffix("."))
    return layer, net.get_parameter(name)
