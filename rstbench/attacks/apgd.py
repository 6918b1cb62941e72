"""Auto-PGD (Croce and Hein, ICML 2020) on the exact objective of a switch, which AutoAttack's own lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..flags import ZERO_GRADIENT
from ..threat import Threat
from .mixture import Model, members_of
from .objective import LossEvaluation, Objective, check_names, expand_as_batch
from .spec import Crafted
from .steps import Steps

ALPHA = 0.75  # share of the new step; the rest is momentum
RISES = 0.75  # share of the steps of a period that must raise the loss


@dataclass(frozen=True)
class APGD:
    """Auto-PGD: `steps` steps from each of `restarts` random starts.

    The step size begins at 2 eps and is halved for each image whose loss has stopped rising. Returns for each
    image the iterate with the lowest expected accuracy over the members, and of those the one of largest
    loss. loss and mean as for `PGD`.
    """

    steps: int = 50
    restarts: int = 1
    loss: str = "ce"
    mean: str = "loss"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"steps and restarts must be positive, got {self.steps}, {self.restarts}")
        check_names(self.loss, self.mean)

    @property
    def passes(self) -> int:
        """Return about how many passes an image takes that survives."""
        return 2 * self.restarts * (self.steps + 1)

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        objective = Objective(model, y, self.loss, self.mean)
        best = _BestImages(x)
        steps = Steps("apgd", len(x), self.restarts * self.steps, len(members_of(model)))
        zero_gradient = False
        for _ in range(self.restarts):
            zero_gradient |= self._run(objective, threat.sample(x, generator), x, threat, best, steps)
        return Crafted(best.images, {"apgd": best.wrong}, (ZERO_GRADIENT.name,) if zero_gradient else ())

    def _run(
        self, objective: Objective, adv: Tensor, x: Tensor, threat: Threat, best: _BestImages, steps: Steps
    ) -> bool:
        """Run from one start, and return whether a gradient vanished."""
        evaluation = objective(adv)
        best.update(adv, evaluation)
        size = torch.full((len(x),), 2 * float(threat.eps), device=x.device)
        previous, top, top_loss, top_gradient = adv, adv, evaluation.loss, evaluation.gradient
        rises, halved = torch.zeros_like(size), torch.ones_like(size, dtype=torch.bool)
        top_before, ends, began = top_loss, checkpoints(self.steps), 0
        zero_gradient = False
        for step in range(1, self.steps + 1):
            zero_gradient |= evaluation.has_zero_gradient()
            target = threat.project(x, _stepped(threat, adv, evaluation.gradient, size))
            share = ALPHA if step > 1 else 1.0
            moved = threat.project(x, adv + share * (target - adv) + (1 - share) * (adv - previous))
            previous, adv, last = adv, moved, evaluation.loss
            evaluation = objective(adv)
            best.update(adv, evaluation)
            steps.advance(best.accuracy)
            rises += evaluation.loss > last
            higher = evaluation.loss > top_loss
            top = torch.where(expand_as_batch(higher, x), adv, top)
            top_gradient = torch.where(expand_as_batch(higher, x), evaluation.gradient, top_gradient)
            top_loss = torch.where(higher, evaluation.loss, top_loss)
            if step in ends:
                slow = rises < RISES * (step - began)
                stuck = ~halved & (top_before >= top_loss)
                halved = slow | stuck
                size = torch.where(halved, size / 2, size)
                # An image whose step is halved goes on from its best iterate.
                adv = torch.where(expand_as_batch(halved, x), top, adv)
                gradient = torch.where(expand_as_batch(halved, x), top_gradient, evaluation.gradient)
                loss = torch.where(halved, top_loss, evaluation.loss)
                evaluation = replace(evaluation, loss=loss, gradient=gradient)
                rises, top_before, began = torch.zeros_like(rises), top_loss, step
        return zero_gradient


def checkpoints(steps: int) -> list[int]:
    """Return after which steps the size may be halved.

    The first is 0.22 of all; the gaps then shrink by 0.03 of all, down to 0.06.
    """
    fractions, before = [0.0, 0.22], 0.0
    while fractions[-1] < 1:
        gap = max(fractions[-1] - before - 0.03, 0.06)
        before = fractions[-1]
        fractions.append(before + gap)
    return sorted({max(1, round(fraction * steps)) for fraction in fractions[1:] if fraction <= 1})


class _BestImages:
    """For each image the iterate that fools most of the members, and of those the one of largest loss."""

    def __init__(self, x: Tensor) -> None:
        self.images = x.clone()
        self.accuracy = torch.full((len(x),), torch.inf, device=x.device)
        self.loss = torch.full((len(x),), -torch.inf, device=x.device)
        self.wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def update(self, adv: Tensor, evaluation: LossEvaluation) -> None:
        same = evaluation.accuracy == self.accuracy
        better = (evaluation.accuracy < self.accuracy) | (same & (evaluation.loss > self.loss))
        self.images = torch.where(expand_as_batch(better, adv), adv, self.images)
        self.accuracy = torch.where(better, evaluation.accuracy, self.accuracy)
        self.loss = torch.where(better, evaluation.loss, self.loss)
        self.wrong = torch.where(better, evaluation.wrong, self.wrong)


def _stepped(threat: Threat, adv: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
    """Move each image by its own step size."""
    if threat.norm != "L1":
        return adv + expand_as_batch(size, adv) * threat.steepest(gradient)
    moved = [
        threat.step(image[None], slope[None], float(length))
        for image, slope, length in zip(adv, gradient, size, strict=True)
    ]
    return torch.cat(moved)
