"""Projected gradient descent (Madry et al., ICLR 2018) that keeps each image's best iterate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Generator, Tensor

from ..threat import Threat
from .attack import Crafted
from .mixture import members_of


@dataclass(frozen=True)
class PGD:
    """`steps` steps of `step` * eps along the steepest direction, from `restarts` random starts.

    Returns for each image the iterate of largest loss over all steps and restarts: a maximum-loss
    image of every image, also of those the model gets wrong already. With `early_stop` an image is
    left alone once the model is wrong on it, as in the published transfer test; that makes images
    that barely fool the source and transfer poorly. loss: 'ce' (cross-entropy) or 'margin' (largest
    other logit minus the true one). Against a switch the loss is the exact expectation over members.
    """

    steps: int = 20
    step: Fraction = Fraction(1, 4)
    restarts: int = 1
    loss: str = "ce"
    early_stop: bool = False
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.step <= 0:
            raise ValueError(
                f"steps, restarts and step must be positive, got {self.steps}, {self.restarts}, {self.step}"
            )
        if self.loss not in ("ce", "margin"):
            raise ValueError(f"loss must be 'ce' or 'margin', got {self.loss!r}")

    def __call__(
        self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, generator: Generator
    ) -> Crafted:
        best = x.clone()
        best_loss = torch.full((len(x),), -torch.inf, device=x.device)
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        zero_gradient = False
        size = float(self.step * threat.eps)
        for _ in range(self.restarts):
            adv = threat.sample(x, generator) if self.random_start else x.clone()
            for step in range(self.steps + 1):
                last = step == self.steps
                loss, wrong, gradient = self._look(model, adv, y, gradient=not last)
                better = loss > best_loss
                if self.early_stop:
                    better = (better | wrong) & ~fooled
                best = torch.where(_column(better, x), adv, best)
                best_loss = torch.where(better, loss, best_loss)
                fooled = torch.where(better, wrong, fooled)
                if last or (self.early_stop and bool(fooled.all())):
                    break
                zero_gradient |= bool((gradient.flatten(1).abs().amax(1) == 0).any())
                moved = threat.project(x, threat.step(adv, gradient, size))
                adv = torch.where(_column(fooled, x), adv, moved) if self.early_stop else moved
        flags = ("zero-gradient",) if zero_gradient else ()
        return Crafted(best, {"pgd": fooled}, flags)

    def _look(
        self, model: Callable[[Tensor], Tensor], adv: Tensor, y: Tensor, gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Expected loss (n,), whether every member is wrong (n,), and the loss's gradient."""
        adv = adv.detach().requires_grad_(gradient)
        loss = torch.zeros(len(adv), device=adv.device)
        slope = torch.zeros_like(adv)
        wrong = torch.ones(len(adv), dtype=torch.bool, device=adv.device)
        with torch.set_grad_enabled(gradient):
            for weight, member in members_of(model):
                logits = member(adv)
                term = weight * self._loss(logits, y)
                if gradient:
                    # One member's graph at a time: memory does not grow with the switch.
                    slope += torch.autograd.grad(term.sum(), adv)[0]
                loss += term.detach()
                wrong &= (logits.argmax(1) != y) | ~logits.isfinite().all(1)
        # A model that answers NaN has been broken: that image must not be lost from sight.
        return loss.nan_to_num(nan=torch.inf), wrong, slope.nan_to_num(nan=0.0)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.loss == "ce":
            return torch.nn.functional.cross_entropy(logits, y, reduction="none")
        true = logits.gather(1, y[:, None])[:, 0]
        others = logits.scatter(1, y[:, None], -torch.inf)
        return others.amax(1) - true


def _column(mask: Tensor, x: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (x.dim() - 1))
