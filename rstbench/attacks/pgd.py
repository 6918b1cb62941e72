"""Projected gradient descent (Madry et al., ICLR 2018) that keeps each image's best iterate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Generator, Tensor

from ..flags import ZERO_GRADIENT
from ..threat import Threat
from .mixture import Model, members_of
from .objective import Objective, check_names, expand_as_batch
from .spec import Crafted
from .steps import Steps


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent that keeps each image's iterate of largest loss.

    The result is a maximum-loss image of every image, also of those the model gets wrong already, over all
    steps and restarts. Against a switch the loss is the exact expectation over its members.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.

    Args:
        steps: Number of gradient steps of each restart.
        step: Length of a step, in units of eps.
        restarts: Number of random starts.
        loss: 'ce' (cross-entropy) or 'margin' (largest other logit minus the true one).
        mean: Against a switch, the loss of what is ascended: the mean 'loss' over members, or the loss of
            their mean 'probability' or mean 'logits'.
        early_stop: Leave an image alone once the model is wrong on it, as in the published transfer test.
            Such images barely fool the source and transfer poorly.
        random_start: Start at a random point of the ball instead of the clean image.
        momentum: Decay of summed gradients, each divided by its mean size (Dong et al., CVPR 2018).
        samples: Average each gradient over this many images, moved by uniform noise.
        noise: Size of that noise, in units of eps.

    Raises:
        ValueError: For values out of range.

    Example:
        >>> import rstbench, torch
        >>> from torch import nn
        >>> x, y = rstbench.load_data("digits:test:10").at(slice(None))
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        >>> threat = rstbench.Threat.parse("Linf:0.1")
        >>> crafted = rstbench.PGD(steps=5)(net, x, y, threat, torch.Generator().manual_seed(0))
        >>> crafted.images.shape, bool(threat.distance(x, crafted.images).max() <= 0.1 + 1e-6)
        (torch.Size([10, 1, 8, 8]), True)
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

    @property
    def passes(self) -> int:
        """Return about how many passes an image takes that survives."""
        return 2 * self.restarts * self.steps * self.samples

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        objective = Objective(model, y, self.loss, self.mean)
        best = x.clone()
        best_loss = torch.full((len(x),), -torch.inf, device=x.device)
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        zero_gradient = False
        size = float(self.step * threat.eps)
        passes = len(members_of(model)) * self.samples
        steps = Steps("pgd", len(x), self.restarts * (self.steps + 1), passes)
        for _ in range(self.restarts):
            adv = threat.sample(x, generator) if self.random_start else x.clone()
            velocity, before = torch.zeros_like(x), adv
            for step in range(self.steps + 1):
                last = step == self.steps
                evaluation = objective(adv, gradient=not last)
                better = evaluation.loss > best_loss
                if self.early_stop:
                    better = (better | evaluation.wrong) & ~fooled
                best = torch.where(expand_as_batch(better, x), adv, best)
                best_loss = torch.where(better, evaluation.loss, best_loss)
                fooled = torch.where(better, evaluation.wrong, fooled)
                last |= self.early_stop and bool(fooled.all())
                steps.advance(~fooled, self.steps + 1 - step if last else 1, stops=self.early_stop)
                if last:
                    break
                zero_gradient |= evaluation.has_zero_gradient()
                gradient = self._smoothed(objective, evaluation.gradient, adv, threat, generator)
                if self.momentum:
                    mean = gradient.flatten(1).abs().mean(1).clamp_min(1e-12)
                    velocity = self.momentum * velocity + gradient / expand_as_batch(mean, x)
                    gradient = velocity
                moved = threat.ascend(x, adv, gradient, size)
                moved = torch.where(expand_as_batch(fooled, x), adv, moved) if self.early_stop else moved
                if self._repeats and (moved.equal(before) or moved.equal(adv)):
                    steps.advance(~fooled, self.steps - step, stops=self.early_stop)
                    break  # all images go in circles of one or two, which are evaluated already
                before, adv = adv, moved
        flags = (ZERO_GRADIENT.name,) if zero_gradient else ()
        return Crafted(best, {"pgd": fooled}, flags)

    @property
    def _repeats(self) -> bool:
        """Whether the next iterate follows from this one alone."""
        return not self.momentum and self.samples == 1

    def _smoothed(
        self, objective: Objective, gradient: Tensor, adv: Tensor, threat: Threat, generator: Generator
    ) -> Tensor:
        """Return the gradient, averaged over `samples` images near `adv`."""
        total = gradient
        for _ in range(self.samples - 1):
            uniform = torch.rand(adv.shape, generator=generator, device=generator.device).to(adv)
            near = adv + float(self.noise * threat.eps) * (2 * uniform - 1)
            total = total + objective(near.clamp(0, 1)).gradient
        return total / self.samples
