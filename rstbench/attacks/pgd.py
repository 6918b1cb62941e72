"""Projected gradient descent (Madry et al., ICLR 2018) that keeps each image's best iterate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Generator, Tensor

from ..flags import ZERO_GRADIENT
from ..threat import Threat
from .objective import LossEvaluation, Objective, check_names, expand_as_batch
from .spec import Crafted


@dataclass(frozen=True)
class PGD:
    """`steps` steps of `step` * eps along the steepest direction, from `restarts` random starts.

    Returns for each image the iterate of largest loss over all steps and restarts: a maximum-loss
    image of every image, also of those the model gets wrong already. With `early_stop` an image is
    left alone once the model is wrong on it, as in the published transfer test; that makes images
    that barely fool the source and transfer poorly. loss: 'ce' (cross-entropy) or 'margin' (largest
    other logit minus the true one). Against a switch the loss is the exact expectation over members, or with
    mean 'probability' or 'logits' that of their mean.

    For sources that are weak surrogates: `momentum` sums the gradients, each divided by its mean size, with
    this decay (Dong et al., CVPR 2018); `samples` above 1 averages each gradient over as many images, moved
    by uniform noise of `noise` * eps.
    """

    steps: int = 20
    step: Fraction = Fraction(1, 4)
    restarts: int = 1
    loss: str = "ce"
    mean: str = "loss"
    early_stop: bool = False
    random_start: bool = True
    momentum: float = 0.0
    samples: int = 1
    noise: Fraction = Fraction(1, 2)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.step <= 0:
            raise ValueError(
                f"steps, restarts and step must be positive, got {self.steps}, {self.restarts}, {self.step}"
            )
        if not 0 <= self.momentum < float("inf") or self.samples < 1 or self.noise < 0:
            raise ValueError(
                f"momentum and noise are 0 or more, samples at least 1, got {self.momentum}, {self.noise}, "
                f"{self.samples}"
            )
        check_names(self.loss, self.mean)

    def __call__(
        self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, generator: Generator
    ) -> Crafted:
        objective = Objective(model, y, self.loss, self.mean)
        best = x.clone()
        best_loss = torch.full((len(x),), -torch.inf, device=x.device)
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        zero_gradient = False
        size = float(self.step * threat.eps)
        for _ in range(self.restarts):
            adv = threat.sample(x, generator) if self.random_start else x.clone()
            velocity = torch.zeros_like(x)
            for step in range(self.steps + 1):
                last = step == self.steps
                evaluation = objective(adv, gradient=not last)
                better = evaluation.loss > best_loss
                if self.early_stop:
                    better = (better | evaluation.wrong) & ~fooled
                best = torch.where(expand_as_batch(better, x), adv, best)
                best_loss = torch.where(better, evaluation.loss, best_loss)
                fooled = torch.where(better, evaluation.wrong, fooled)
                if last or (self.early_stop and bool(fooled.all())):
                    break
                zero_gradient |= evaluation.has_zero_gradient()
                gradient = self._smoothed(objective, evaluation, adv, threat, generator)
                if self.momentum:
                    mean = gradient.flatten(1).abs().mean(1).clamp_min(1e-12)
                    velocity = self.momentum * velocity + gradient / expand_as_batch(mean, x)
                    gradient = velocity
                moved = threat.project(x, threat.step(adv, gradient, size))
                adv = torch.where(expand_as_batch(fooled, x), adv, moved) if self.early_stop else moved
        flags = (ZERO_GRADIENT.name,) if zero_gradient else ()
        return Crafted(best, {"pgd": fooled}, flags)

    def _smoothed(
        self,
        objective: Objective,
        evaluation: LossEvaluation,
        adv: Tensor,
        threat: Threat,
        generator: Generator,
    ) -> Tensor:
        """Return the gradient, averaged over `samples` images near `adv`."""
        total = evaluation.gradient
        for _ in range(self.samples - 1):
            uniform = torch.rand(adv.shape, generator=generator, device=generator.device).to(adv)
            near = adv + float(self.noise * threat.eps) * (2 * uniform - 1)
            total = total + objective(near.clamp(0, 1)).gradient
        return total / self.samples
