"""The probabilities with which a switch is hardest to attack: the defender's best case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..threat import Threat
from .attack import Attack

DESCENT = 500  # steps on the simplex between two attacks; they cost no forward


@dataclass(frozen=True)
class Odds:
    """weights: of the members, summing to 1; error: their expected error, each image under the worst set of
    images that was crafted in any round; rounds: (weights, expected error under the attack made for them) of
    every round."""

    weights: tuple[float, ...]
    error: float
    rounds: tuple[tuple[tuple[float, ...], float], ...]


@dataclass(frozen=True)
class Weighted:
    """A mixture of models under other weights than its own."""

    members: Sequence[Callable[[Tensor], Tensor]]
    weights: Sequence[float]


def best_odds(
    members: Sequence[Callable[[Tensor], Tensor]],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attack: Attack,
    generator: Generator,
    *,
    rounds: int = 5,
) -> Odds:
    """Lowers the expected error over the members' probabilities, from equal ones.

    In each round the attack is made for the present weights, and its outcome joins those of the rounds
    before. The error of some weights is then, for each image, that of the worst outcome so far; down its
    sub-gradient on the simplex the next weights are found. They are as good as the attack. x, y: held-out
    training images (n, c, h, w) and labels, never test images.
    Source: OSP of Dbouk and Shanbhag, ICML 2023, which follows the sub-gradient of the last attack alone.
    """
    weights = torch.full((len(members),), 1 / len(members), dtype=torch.float64)
    outcomes, seen = [_wrong(members, x, y)], list[tuple[tuple[float, ...], float]]()
    for _ in range(rounds):
        images = attack(Weighted(members, weights.tolist()), x, y, threat, generator).images  # type: ignore[arg-type]
        outcomes.append(_wrong(members, images, y))
        seen.append((tuple(weights.tolist()), float((weights @ outcomes[-1]).mean())))
        weights, error = descend(torch.stack(outcomes))
    return Odds(tuple(weights.tolist()), error, tuple(seen))


def descend(wrong: Tensor, steps: int = DESCENT) -> tuple[Tensor, float]:
    """(weights, expected error) that are best against these outcomes, each image under its worst one.

    wrong: (sets, members, images), 1 where a member is wrong. Sub-gradient descent from equal weights, in
    steps that shrink with the root of their number, each followed by a projection onto the simplex.
    """
    weights = torch.full((wrong.shape[1],), 1 / wrong.shape[1], dtype=torch.float64)
    best, lowest = weights, torch.inf
    for step in range(1, steps + 1):
        errors, worst = torch.einsum("m,smi->si", weights, wrong).max(0)
        if float(errors.mean()) < lowest - 1e-9:
            best, lowest = weights, float(errors.mean())
        slope = wrong[worst, :, torch.arange(wrong.shape[2])].mean(0)
        weights = onto_simplex(weights - slope / step**0.5)
    return best, lowest


def onto_simplex(values: Tensor) -> Tensor:
    """The nearest probabilities, (n,): by sorting (Duchi et al., ICML 2008)."""
    ordered = values.sort(descending=True).values
    excess = ordered.cumsum(0) - 1
    rank = torch.arange(1, len(values) + 1, dtype=values.dtype)
    last = int((ordered * rank > excess).sum()) - 1
    return (values - excess[last] / (last + 1)).clamp_min(0)


def _wrong(members: Sequence[Callable[[Tensor], Tensor]], images: Tensor, y: Tensor) -> Tensor:
    """(members, n), 1.0 where a member is wrong or says NaN."""
    with torch.no_grad():
        logits = torch.stack([member(images) for member in members])
    right = (logits.argmax(2) == y) & logits.isfinite().all(2)
    return 1 - right.double().cpu()
