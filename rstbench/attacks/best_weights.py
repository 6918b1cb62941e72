"""Fit the probabilities with which a switch is hardest to attack: the defender's best case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..threat import Threat, simplex_threshold
from .mixture import FastModel, Model
from .objective import is_correct
from .spec import Attack

DESCENT_STEPS = 500  # on the simplex between two attacks; they cost no forward
LEAST_WEIGHT = 1e-3  # a member with a smaller one is left out
SAME = 1e-6  # weights that differ by less are attacked once


@dataclass(frozen=True)
class WeightFit:
    """Probabilities of the members of a switch, and how they were found.

    weights: of the members, summing to 1; error: their expected error, each image under the worst set of
    images that was crafted; tried: (weights, the same error) of all weights that were attacked.
    """

    weights: tuple[float, ...]
    error: float
    tried: tuple[tuple[tuple[float, ...], float], ...]


@dataclass(frozen=True)
class WeightedMixture:
    """A mixture of models under other weights than its own."""

    members: Sequence[Model]
    weights: Sequence[float]


def best_switch_weights(
    members: Sequence[Model],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attack: Attack,
    generator: Generator,
    *,
    rounds: int = 5,
    on_attack: Callable[[float], None] = lambda robust: None,
) -> WeightFit:
    """Return the probabilities of the members with the lowest expected error under an attack.

    The attack is made for equal weights and for each member alone; then in each round for the weights that
    are best against all outcomes so far, each image being judged by its worst one, which are found down the
    sub-gradient of that error on the simplex, until these were attacked before. Of all weights that were
    attacked the best are returned, so that no single member is better. x, y: held-out training images
    (n, c, h, w) and labels, never test ones; on_attack: called after each attack, of which there are at most
    `count_attacks`, with the expected accuracy under it.
    Source: OSP of Dbouk and Shanbhag, ICML 2023, which follows the sub-gradient of the last attack alone.
    """
    wrong, count = [_wrong(members, x, y)], len(members)
    tried = [torch.full((count,), 1 / count, dtype=torch.float64), *torch.eye(count, dtype=torch.float64)]
    for step in range(count_attacks(count, rounds)):
        if step == len(tried):
            weights = descend(torch.stack(wrong))[0]
            if any(torch.allclose(weights, other, rtol=0, atol=SAME) for other in tried):
                break  # the descent has arrived
            tried.append(weights)
        mixture = WeightedMixture(members, tried[step].tolist())
        images = attack(mixture, x, y, threat, generator).images  # type: ignore[arg-type]
        wrong.append(_wrong(members, images, y))
        on_attack(1 - float(_errors(wrong[-1][None], tried[step]).mean()))
    errors = [float(_errors(torch.stack(wrong), weights).mean()) for weights in tried]
    best = min(range(len(tried)), key=errors.__getitem__)
    candidates = tuple(tuple(weights.tolist()) for weights in tried)
    return WeightFit(candidates[best], errors[best], tuple(zip(candidates, errors, strict=True)))


def count_attacks(members: int, rounds: int) -> int:
    """Return how many attacks a fit of so many members takes at most."""
    return 1 + members + rounds


def descend(wrong: Tensor, steps: int = DESCENT_STEPS) -> tuple[Tensor, float]:
    """Return the weights of lowest expected error, each image under its worst outcome, and that error.

    wrong: (sets, members, images), 1 where a member is wrong. Sub-gradient descent from equal weights, in
    steps that shrink with the root of their number, each followed by a projection onto the simplex.
    """
    weights = torch.full((wrong.shape[1],), 1 / wrong.shape[1], dtype=torch.float64)
    best, lowest = weights, torch.inf
    for step in range(1, steps + 1):
        errors, worst = torch.einsum("m,smi->si", weights, wrong).max(0)
        if float(errors.mean()) < lowest - 1e-9:
            best, lowest = weights, float(errors.mean())
        subgradient = wrong[worst, :, torch.arange(wrong.shape[2])].mean(0)
        weights = project_to_simplex(weights - subgradient / step**0.5)
    best = torch.where(best < LEAST_WEIGHT, 0.0, best)
    best = best / best.sum()
    return best, float(_errors(wrong, best).mean())


def _errors(wrong: Tensor, weights: Tensor) -> Tensor:
    """Return each image's expected error under its worst set, (images,); wrong: (sets, members, images)."""
    return torch.einsum("m,smi->si", weights, wrong).amax(0)


def project_to_simplex(values: Tensor) -> Tensor:
    """Return the nearest probabilities to `values`, (n,)."""
    return (values - simplex_threshold(values[None], 1)[0]).clamp_min(0)


def _wrong(members: Sequence[Model], images: Tensor, y: Tensor) -> Tensor:
    """Return (members, n), 1.0 where a member, never a copy of it, is wrong or its logits are not finite."""
    judges = [member.exact_model if isinstance(member, FastModel) else member for member in members]
    with torch.no_grad():
        correct = torch.stack([is_correct(judge(images), y) for judge in judges])
    return 1 - correct.double().cpu()
