"""Masks over the weights of ordinary layers: edge-popup scores, fixed masks, and how many weights are kept.

Each prunable weight gets a score of its own shape. The forward pass uses the weights of the largest |score|;
the backward pass treats the mask as |score| (Ramanujan et al., CVPR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from ..errors import BadRequest
from ..networks.network import NetworkSpec, build
from ..parsing import exact_number


def parse_remaining(text: str | float) -> Fraction:
    """Return the remaining ratio as the exact decimal that was written: '0.1' is 1/10. Raises BadRequest."""
    try:
        remaining = exact_number(str(text)) if "/" not in str(text) else Fraction(0)
    except ValueError:  # no number, or one that is not finite
        remaining = Fraction(0)
    if not 0 < remaining <= 1:
        raise BadRequest(f"remaining is the kept fraction, a decimal above 0 and at most 1, got {text!r}")
    return remaining


def kept_count(remaining: Fraction | float, weights: int, rule: str = "ceil") -> int:
    """Return how many of `weights` weights a layer keeps: at least one, at most all.

    'ceil' is ceil(k n) for an exact ratio, and the nearest count for a float, as the p-rule gives.
    'authors' is n - int((1 - k) n) in floating point, as in the RST code: one more where (1 - k) n falls
    just below a whole number (4,609 of 5,120 for k = 0.9).

    A new rounding is a rule under a new name, here and in `CHOICES` of training/recipe.py. Ticket files are
    checked against the rule that their recipe names: to change one makes the existing files invalid.
    """
    if rule == "authors":
        count = weights - int((1 - float(remaining)) * weights)
    elif rule == "ceil":
        exact = isinstance(remaining, Fraction)
        count = math.ceil(remaining * weights) if exact else round(remaining * weights)
    else:
        raise BadRequest(f"kept-count must be 'ceil' or 'authors', got {rule!r}")
    return max(1, min(weights, count))


def straight_through(mask: Tensor, scores: Tensor) -> Tensor:
    """Return the mask as exactly 0.0 and 1.0, with the gradient of |scores| (straight-through estimator).

    The gradient of a score is g * sign(score), g being the gradient of its mask entry, for kept and
    dropped entries alike. Source: Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted
    Neural Network?".
    """
    magnitude = scores.abs()
    # (m - m) is exactly zero; hard + m - m would round.
    return mask.to(scores.dtype) + (magnitude - magnitude.detach())


class Selector(Protocol):
    """Choose the scores that stay, see `LayerBudget`."""

    def select(self, scores: Tensor) -> Tensor:
        """Return a boolean mask of the scores' shape."""

    def weight_mask(self, scores: Tensor) -> Tensor:
        """Return the same mask, expanded to the weight's shape."""


class EdgePopup(nn.Module):
    """Parametrize a frozen weight by its edge-popup scores, the only parameter.

    The mask is broadcast over the weight where one score decides on several.
    """

    def __init__(self, scores: Tensor, selector: Selector) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.selector = selector

    def forward(self, weight: Tensor) -> Tensor:
        return weight * straight_through(self.selector.select(self.scores), self.scores)


class FixedMask(nn.Module):
    """Parametrize a trained weight by a mask that does not change."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return apply_mask(weight, self.mask)


def apply_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """Return the weight where the mask is true, else +0.0 (`weight * mask` would leave -0.0 behind)."""
    return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


def apply_masks(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state dict, masked where a mask is given."""
    return {name: apply_mask(t, masks[name]) if name in masks else t for name, t in state.items()}


def random_scores(shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw the published initial scores: U(-b, b), b = 1/sqrt(fan in of the scores) (kaiming_uniform,
    a = sqrt 5); N(0, 1) where each filter has one score."""
    fan_in = math.prod(shape[1:])
    if fan_in == 1:
        return torch.randn(tuple(shape), generator=generator)
    return (2 * torch.rand(tuple(shape), generator=generator) - 1) / math.sqrt(fan_in)


def register_scores(
    net: nn.Module, selectors: Mapping[str, Selector], scores: Mapping[str, Tensor]
) -> dict[str, EdgePopup]:
    """Freeze a network, parametrize the weights named in `selectors` by scores, return the parametrizations.

    They are never removed: a ticket is exported into a fresh network.
    """
    net.requires_grad_(False)
    parametrizations: dict[str, EdgePopup] = {}
    for name, selector in selectors.items():
        layer, weight = _layer_and_weight(net, name)
        parametrizations[name] = EdgePopup(scores[name].to(weight), selector)
        parametrize.register_parametrization(layer, "weight", parametrizations[name])
    return parametrizations


def register_masks(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Parametrize the weights of a network that is about to be trained by fixed masks."""
    for name, mask in masks.items():
        layer, weight = _layer_and_weight(net, name)
        parametrize.register_parametrization(layer, "weight", FixedMask(mask.to(weight.device)))


def unparametrized_state(net: nn.Module, spec: NetworkSpec) -> dict[str, Tensor]:
    """Return the state dict of a parametrized network under the plain network's names, on the CPU, with
    parameters as they are trained: before any mask."""
    parametrized, state = net.state_dict(), {}
    for name in build(spec).state_dict():
        layer, _, leaf = name.rpartition(".")
        original = f"{layer}.parametrizations.{leaf}.original".lstrip(".")
        tensor = parametrized[original if original in parametrized else name]
        state[name] = tensor.detach().cpu().contiguous().clone()
    return state


def _layer_and_weight(net: nn.Module, name: str) -> tuple[nn.Module, Tensor]:
    layer = net.get_submodule(name.removesuffix("weight").removesuffix("."))
    return layer, net.get_parameter(name)
