"""The probabilities with which a switch is hardest to attack: the defender's best case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ..threat import Threat
from .attack import Attack


@dataclass(frozen=True)
class Odds:
    """weights: of the members, summing to 1; error: their expected error under the attack that was made for
    them; rounds: (weights, error) of every round."""

    weights: tuple[float, ...]
    error: float
    rounds: tuple[tuple[tuple[float, ...], float], ...]


def best_odds(
    members: Sequence[Callable[[Tensor], Tensor]],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attack: Attack,
    generator: Generator,
    *,
    rounds: int = 10,
    rate: float = 2.0,
) -> Odds:
    """Lowers the expected error over the members' probabilities, from equal ones.

    In each round the attack is made for the present weights; the members' errors on its images are a
    sub-gradient, along which the weights move by rate / round before they are projected back onto the
    simplex. The weights of the lowest error are kept: they are as good as the attack, which a mixture may
    catch at a weak moment. x, y: held-out training images (n, c, h, w) and labels, never test images.
    Source: OSP of Dbouk and Shanbhag, ICML 2023.
    """
    weights = torch.full((len(members),), 1 / len(members), dtype=torch.float64)
    seen: list[tuple[tuple[float, ...], float]] = []
    for number in range(1, rounds + 1):
        present = tuple(weights.tolist())
        mixture: Any = _Weighted(members, present)
        images = attack(mixture, x, y, threat, generator).images
        errors = torch.stack([_error(member, images, y) for member in members])
        seen.append((present, float(weights @ errors)))
        weights = onto_simplex(weights - rate / number * errors)
    best = min(seen, key=lambda one: one[1])
    return Odds(*best, tuple(seen))


def onto_simplex(values: Tensor) -> Tensor:
    """The nearest probabilities, (n,): by sorting (Duchi et al., ICML 2008)."""
    ordered = values.sort(descending=True).values
    excess = ordered.cumsum(0) - 1
    rank = torch.arange(1, len(values) + 1, dtype=values.dtype)
    last = int((ordered * rank > excess).sum()) - 1
    return (values - excess[last] / (last + 1)).clamp_min(0)


@dataclass(frozen=True)
class _Weighted:
    members: Sequence[Callable[[Tensor], Tensor]]
    weights: Sequence[float]


def _error(member: Callable[[Tensor], Tensor], images: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        logits = member(images)
    right = (logits.argmax(1) == y) & logits.isfinite().all(1)
    return 1 - right.double().mean().cpu()
