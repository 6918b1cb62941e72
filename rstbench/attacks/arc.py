"""ARC, the attack on randomised ensembles (Dbouk and Shanbhag, ICML 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
from torch import Generator, Tensor

from ..threat import Threat
from .mixture import Member, Model, members_of
from .objective import expand_as_batch, is_correct
from .spec import Crafted
from .steps import Steps

RHO = 0.05  # of eps: how far beyond a member's boundary


@dataclass(frozen=True)
class ARC:
    """Lower the expected accuracy of a switch member by member.

    In each of `steps` rounds every member in turn, the likeliest first, pulls the images towards its nearest
    class boundary; a pull is kept where the expected accuracy does not rise. step: length of a round's move
    in eps; runners: how many classes besides the predicted one are tried, 0 for all; restarts: the first from
    the clean image, the others from random points. With random starts the published code compares the first
    round with the clean image's accuracy; here each start is compared with itself, and the best of all kept.
    Linf and L2 only: raises ValueError for L1.
    """

    steps: int = 20
    step: Fraction = Fraction(1)
    runners: int = 0
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.step <= 0 or self.runners < 0 or self.restarts < 1:
            raise ValueError(
                f"steps, step and restarts must be positive and runners 0 or more, got {self.steps}, "
                f"{self.step}, {self.restarts}, {self.runners}"
            )

    @property
    def passes(self) -> int:
        """Return about how many passes an image takes that survives."""
        return self.restarts * self.steps * (2 + (self.runners or 9))

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        if threat.norm == "L1":
            raise ValueError("ARC is defined for Linf and L2, not for L1")
        # Weights descend; a member that never answers pulls nowhere.
        pairs = sorted((pair for pair in members_of(model) if pair[0] > 0), key=lambda pair: -pair[0])
        best, lowest = x.clone(), _accuracy(pairs, x, y)
        steps = Steps("arc", len(x), self.restarts * self.steps * len(pairs), 1 + len(pairs))
        for restart in range(self.restarts):
            adv = threat.sample(x, generator) if restart else x.clone()
            value = _accuracy(pairs, adv, y)
            for _ in range(self.steps):
                on_member = partial(steps.advance, lowest.minimum(value))
                adv, value = self._round(pairs, adv, value, x, y, threat, on_member)
            better = value < lowest
            best = torch.where(expand_as_batch(better, x), adv, best)
            lowest = torch.where(better, value, lowest)
        return Crafted(best, {"arc": lowest <= 0})

    def _round(
        self,
        pairs: Sequence[Member],
        adv: Tensor,
        value: Tensor,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        on_member: Callable[[], None],
    ) -> tuple[Tensor, Tensor]:
        """Move all images once; return them and their expected accuracy."""
        eta, rho = float(self.step * threat.eps), RHO * float(threat.eps)
        local, lowest = torch.zeros_like(x), value
        for index, (_, member) in enumerate(pairs):
            distance, direction, normal = self._boundary(member, adv + local, threat)
            reach = torch.full_like(distance, eta)
            if index:
                # As far as what the earlier members want leaves this one beyond its boundary.
                inside = distance < eta
                along = (distance - (normal * local).flatten(1).sum(1)).abs()
                further = eta / (eta - distance).clamp_min(1e-12) * along + rho
                reach = torch.where(inside, further, reach)
            pull = local + expand_as_batch(reach, x) * direction
            move = eta * pull / expand_as_batch(_length(pull, threat.norm).clamp_min(1e-12), x)
            accuracy = _accuracy(pairs, threat.project(x, adv + move), y)
            on_member()
            kept = accuracy <= lowest
            local = torch.where(expand_as_batch(kept, x), move, local)
            lowest = torch.where(kept, accuracy, lowest)
        moved = threat.project(x, adv + local)
        accuracy = _accuracy(pairs, moved, y)
        kept = accuracy <= value
        return torch.where(expand_as_batch(kept, x), moved, adv), torch.where(kept, accuracy, value)

    def _boundary(self, member: Model, images: Tensor, threat: Threat) -> tuple[Tensor, Tensor, Tensor]:
        """Return the distance (n,) to the nearest linearised boundary of the class that a member predicts,
        the step of length 1 that leads there, and the boundary's normal divided by its dual norm."""
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = member(images)
            order = logits.detach().argsort(1, descending=True)
            count = min(self.runners or logits.shape[1], logits.shape[1] - 1)
            gaps = logits.gather(1, order[:, :1]) - logits.gather(1, order[:, 1 : count + 1])
            slopes = [
                torch.autograd.grad(gaps[:, j].sum(), images, retain_graph=j + 1 < count)[0].nan_to_num(
                    nan=0.0
                )
                for j in range(count)
            ]
        dual = torch.stack([_dual(slope, threat.norm) for slope in slopes])
        distances = (gaps.detach().T.abs() / (dual + 1e-10)).nan_to_num(nan=torch.inf)
        nearest = distances.argmin(0)
        rows = torch.arange(len(images), device=images.device)
        slope, size = torch.stack(slopes)[nearest, rows], dual[nearest, rows]
        return (
            distances[nearest, rows],
            -threat.steepest(slope),
            -slope / expand_as_batch(size.clamp_min(1e-10), images),
        )


def _accuracy(pairs: Sequence[Member], images: Tensor, y: Tensor) -> Tensor:
    """Return the expected accuracy over the members, (n,)."""
    total = torch.zeros(len(images), device=images.device)
    with torch.no_grad():
        for weight, member in pairs:
            total += weight * is_correct(member(images), y)
    return total


def _length(delta: Tensor, norm: str) -> Tensor:
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "Linf" else flat.norm(dim=1)


def _dual(slope: Tensor, norm: str) -> Tensor:
    flat = slope.flatten(1)
    return flat.abs().sum(1) if norm == "Linf" else flat.norm(dim=1)
