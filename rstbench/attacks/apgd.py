"""Auto-PGD (Croce and Hein, ICML 2020) on the exact objective of a switch, which AutoAttack's own lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..flags import ZERO_GRADIENT
from ..threat import Threat
from .objective import LossEvaluation, Objective, check_names, expand_as_batch
from .spec import Crafted

ALPHA = 0.75  # share of the new step; the rest is momentum
RISES = 0.75  # share of the steps of a period that must raise the loss


@dataclass(frozen=True)
class APGD:
    """`steps` steps from 2 eps down, halved for each image where its loss has stopped rising; `restarts`
    random starts. Returns for each image the iterate on which the expected accuracy over the members is
    lowest, of those the one of largest loss. loss and mean as for `PGD`.
    """

    steps: int = 50
    restarts: int = 1
    loss: str = "ce"
    mean: str = "loss"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"steps and restarts must be positive, got {self.steps}, {self.restarts}")
        check_names(self.loss, self.mean)

    def __call__(
        self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, generator: Generator
    ) -> Crafted:
        objective = Objective(model, y, self.loss, self.mean)
        found = _Best(x)
        zero_gradient = False
        for _ in range(self.restarts):
            zero_gradient |= self._run(objective, threat.sample(x, generator), x, threat, found)
        return Crafted(found.images, {"apgd": found.wrong}, (ZERO_GRADIENT.name,) if zero_gradient else ())

    def _run(self, objective: Objective, adv: Tensor, x: Tensor, threat: Threat, found: _Best) -> bool:
        look = objective(adv)
        found.see(adv, look)
        size = torch.full((len(x),), 2 * float(threat.eps), device=x.device)
        before, top, top_loss, top_gradient = adv, adv, look.loss, look.gradient
        rises, halved = torch.zeros_like(size), torch.ones_like(size, dtype=torch.bool)
        top_then, ends, began = top_loss, checkpoints(self.steps), 0
        zero_gradient = False
        for step in range(1, self.steps + 1):
            zero_gradient |= bool((look.gradient.flatten(1).abs().amax(1) == 0).any())
            target = threat.project(x, _stepped(threat, adv, look.gradient, size))
            share = ALPHA if step > 1 else 1.0
            moved = threat.project(x, adv + share * (target - adv) + (1 - share) * (adv - before))
            before, adv, last = adv, moved, look.loss
            look = objective(adv)
            found.see(adv, look)
            rises += look.loss > last
            higher = look.loss > top_loss
            top = torch.where(expand_as_batch(higher, x), adv, top)
            top_gradient = torch.where(expand_as_batch(higher, x), look.gradient, top_gradient)
            top_loss = torch.where(higher, look.loss, top_loss)
            if step in ends:
                slow = rises < RISES * (step - began)
                stuck = ~halved & (top_then >= top_loss)
                halved = slow | stuck
                size = torch.where(halved, size / 2, size)
                # An image whose step is halved goes on from its best iterate.
                adv = torch.where(expand_as_batch(halved, x), top, adv)
                gradient = torch.where(expand_as_batch(halved, x), top_gradient, look.gradient)
                look = LossEvaluation(
                    torch.where(halved, top_loss, look.loss), look.wrong, look.accuracy, gradient
                )
                rises, top_then, began = torch.zeros_like(rises), top_loss, step
        return zero_gradient


def checkpoints(steps: int) -> list[int]:
    """After which steps the size may be halved: 0.22, then gaps that shrink by 0.03 down to 0.06 of all."""
    places, before = [0.0, 0.22], 0.0
    while places[-1] < 1:
        gap = max(places[-1] - before - 0.03, 0.06)
        before = places[-1]
        places.append(before + gap)
    return sorted({max(1, round(place * steps)) for place in places[1:] if place <= 1})


class _Best:
    """For each image what fools most of the members, and of those what has the largest loss."""

    def __init__(self, x: Tensor) -> None:
        self.images = x.clone()
        self.accuracy = torch.full((len(x),), torch.inf, device=x.device)
        self.loss = torch.full((len(x),), -torch.inf, device=x.device)
        self.wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def see(self, adv: Tensor, look: LossEvaluation) -> None:
        same = look.accuracy == self.accuracy
        better = (look.accuracy < self.accuracy) | (same & (look.loss > self.loss))
        self.images = torch.where(expand_as_batch(better, adv), adv, self.images)
        self.accuracy = torch.where(better, look.accuracy, self.accuracy)
        self.loss = torch.where(better, look.loss, self.loss)
        self.wrong = torch.where(better, look.wrong, self.wrong)


def _stepped(threat: Threat, adv: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
    """Each image moved by its own step size."""
    if threat.norm != "L1":
        return adv + expand_as_batch(size, adv) * threat.steepest(gradient)
    moved = [
        threat.step(image[None], slope[None], float(length))
        for image, slope, length in zip(adv, gradient, size, strict=True)
    ]
    return torch.cat(moved)
