"""Which weights a ticket keeps: edge-popup as a parametrization of ordinary layers.

Each prunable weight gets a score of its own shape. The forward pass uses the weights whose scores
are largest in magnitude; the backward pass treats the mask as |score| (Ramanujan et al., CVPR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from ..errors import BadRequest
from ..networks.network import NetworkSpec, build


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


def straight_through(mask: Tensor, scores: Tensor) -> Tensor:
    """The mask as 0.0 and 1.0 exactly, with the gradient of |scores|.

    The gradient of a score is g * sign(score), g being the gradient of its mask entry, for kept and
    dropped entries alike. Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted
    Neural Network?".
    """
    magnitude = scores.abs()
    # (m - m) is exactly zero; hard + m - m would round.
    return mask.to(scores.dtype) + (magnitude - magnitude.detach())


class Selector(Protocol):
    """Decides which units stay."""

    def select(self, scores: Tensor) -> Tensor:
        """A boolean mask of the scores' shape."""

    def weight_mask(self, scores: Tensor) -> Tensor:
        """The same, spread over the weight."""


class Popup(nn.Module):
    """Parametrization of a frozen weight by its scores, the only parameter.

    selector says which stay; the mask is spread over the weight where one score decides on several.
    """

    def __init__(self, scores: Tensor, selector: Selector) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.selector = selector

    def forward(self, weight: Tensor) -> Tensor:
        return weight * straight_through(self.selector.select(self.scores), self.scores)


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


def random_scores(shape: Sequence[int], generator: Generator) -> Tensor:
    """The published start: U(-b, b) with b = 1/sqrt(fan in) of the scores (kaiming_uniform, a = sqrt 5);
    N(0, 1) where each filter has one score."""
    inputs = math.prod(shape[1:])
    if inputs == 1:
        return torch.randn(tuple(shape), generator=generator)
    return (2 * torch.rand(tuple(shape), generator=generator) - 1) / math.sqrt(inputs)


def put_scores(
    net: nn.Module, selectors: Mapping[str, Selector], scores: Mapping[str, Tensor]
) -> dict[str, Popup]:
    """Freezes a network and puts scores on the weights named in `selectors`; returns the parametrizations.

    The module belongs to the search from now on: they are never taken off, a ticket is exported into a
    fresh network.
    """
    net.requires_grad_(False)
    popups: dict[str, Popup] = {}
    for name, selector in selectors.items():
        layer, weight = _owner(net, name)
        popups[name] = Popup(scores[name].to(weight), selector)
        parametrize.register_parametrization(layer, "weight", popups[name])
    return popups


def fix(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Puts fixed masks on the weights of a network that is about to be trained."""
    for name, mask in masks.items():
        layer, weight = _owner(net, name)
        parametrize.register_parametrization(layer, "weight", Fixed(mask.to(weight.device)))


def originals(net: nn.Module, spec: NetworkSpec) -> dict[str, Tensor]:
    """The state of a network under parametrizations, by the plain network's names, on the CPU: parameters as
    they are learnt, before any mask."""
    found, state = net.state_dict(), {}
    for name in build(spec).state_dict():
        layer, _, leaf = name.rpartition(".")
        inner = f"{layer}.parametrizations.{leaf}.original".lstrip(".")
        state[name] = found[inner if inner in found else name].detach().cpu().contiguous().clone()
    return state


def _owner(net: nn.Module, name: str) -> tuple[nn.Module, Tensor]:
    layer = net.get_submodule(name.removesuffix("weight").removesuffix("."))
    return layer, net.get_parameter(name)
