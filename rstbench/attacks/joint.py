"""An attack that fools as many members of a switch at once as possible, adding one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
from torch import Generator, Tensor

from ..threat import Threat
from .mixture import Member, Model, members_of
from .objective import expand_as_batch, margin
from .spec import Crafted
from .steps import Steps


@dataclass(frozen=True)
class Joint:
    """Grow for each image, greedily, a set of members that are fooled together.

    A candidate joins where `steps` steps of `step` * eps on the summed hinge of all margins of the set end
    with all of it fooled. In the first of `orders` passes each image tries its members from the likeliest
    down, equal ones from the smallest margin up, in the others at random; those that never answer are left
    out. Returns for each image what leaves the lowest expected accuracy. It asks for what Gnecco Heredia et
    al. (2023) call effectiveness and maximality; the attack is this tool's.
    """

    steps: int = 20
    step: Fraction = Fraction(1, 4)
    orders: int = 2
    slack: float = 0.05  # how far beyond its boundary a member is pushed, in logits

    def __post_init__(self) -> None:
        if self.steps < 1 or self.step <= 0 or self.orders < 1 or self.slack < 0:
            raise ValueError(
                f"steps, step and orders must be positive and slack 0 or more, got {self.steps}, "
                f"{self.step}, {self.orders}, {self.slack}"
            )

    @property
    def passes(self) -> int:
        """Return about how many passes an image takes that survives."""
        return 4 * self.orders * (self.steps + 1)

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        pairs = [(share, member) for share, member in members_of(model) if share > 0]
        shares = torch.tensor([weight for weight, _ in pairs], device=x.device)
        clean = _margins(pairs, x, y)
        best, lowest = x.clone(), _expected(clean, shares)
        # Two starts for each candidate; on average half of the members are wanted.
        total = self.orders * len(pairs) * 2 * (self.steps + 1)
        steps = Steps("joint", len(x), total, (len(pairs) + 1) // 2)
        for turn in range(self.orders):
            keys = clean if turn == 0 else torch.rand(clean.shape, generator=generator).to(clean)
            # Those fooled already come first: they cost nothing.
            order = torch.where(clean > 0, torch.full_like(keys, torch.inf), keys).argsort(0, descending=True)
            if turn == 0:
                likely = torch.where(clean > 0, torch.inf, shares[:, None]).gather(0, order)
                order = order.gather(0, likely.argsort(dim=0, descending=True, stable=True))
            adv = self._grow(pairs, order, x, y, threat, generator, partial(steps.advance, lowest))
            value = _expected(_margins(pairs, adv, y), shares)
            better = value < lowest
            best = torch.where(expand_as_batch(better, x), adv, best)
            lowest = torch.where(better, value, lowest)
        return Crafted(best, {"joint": lowest <= 0})

    def _grow(
        self,
        pairs: Sequence[Member],
        order: Tensor,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        generator: Generator,
        on_steps: Callable[[int], None],
    ) -> Tensor:
        """Run one greedy pass; order: (members, n), which member each image tries when."""
        rows = torch.arange(len(x), device=x.device)
        chosen = torch.zeros_like(order, dtype=torch.bool)
        kept = x.clone()
        for candidates in order:
            wanted = chosen.clone()
            wanted[candidates, rows] = True
            adv, done = self._fool(pairs, wanted, kept, x, y, threat, on_steps)
            start, left = threat.sample(x, generator), (~done).nonzero()[:, 0]
            again, more = self._fool(pairs, wanted[:, left], start[left], x[left], y[left], threat, on_steps)
            adv[left[more]], done[left[more]] = again[more], True
            kept = torch.where(expand_as_batch(done, x), adv, kept)
            chosen = torch.where(done, wanted, chosen)
        return kept

    def _fool(
        self,
        pairs: Sequence[Member],
        wanted: Tensor,
        start: Tensor,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        on_steps: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """Return images on which all wanted members (members, n) are wrong, and where that was reached.

        Only images in play are asked for, and only of the members that are wanted there.
        """
        adv, size = start.clone(), float(self.step * threat.eps)
        fooling, done = start.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        play = torch.arange(len(x), device=x.device)
        for step in range(self.steps + 1):
            last = step == self.steps
            fooled, gradient = self._push(pairs, wanted[:, play], adv[play], y[play], gradient=not last)
            reached, left = play[fooled], ~fooled
            fooling[reached], done[reached] = adv[reached], True
            play = play[left]
            last |= not len(play)
            on_steps(self.steps + 1 - step if last else 1)
            if last:
                break
            adv[play] = threat.ascend(x[play], adv[play], gradient[left], size)
        return fooling, done

    def _push(
        self, pairs: Sequence[Member], wanted: Tensor, adv: Tensor, y: Tensor, *, gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """Return where all wanted members are wrong, and the gradient that pushes the others there."""
        fooled, slope = torch.ones(len(adv), dtype=torch.bool, device=adv.device), torch.zeros_like(adv)
        for active, (_, member) in zip(wanted, pairs, strict=True):
            rows = active.nonzero()[:, 0]
            if not len(rows):
                continue
            images = adv[rows].requires_grad_(gradient)
            with torch.set_grad_enabled(gradient):
                gap = margin(member(images), y[rows])
                if gradient:
                    short = (self.slack - gap).clamp_min(0).sum()
                    slope[rows] -= torch.autograd.grad(short, images)[0].nan_to_num(nan=0.0)
            fooled[rows] &= gap.detach() > 0
        return fooled, slope


def _margins(pairs: Sequence[Member], images: Tensor, y: Tensor) -> Tensor:
    """Return the margin of each member on each image, (members, n); above 0 where it is wrong or NaN."""
    with torch.no_grad():
        margins = torch.stack([margin(member(images), y) for _, member in pairs])
    return margins.nan_to_num(nan=torch.inf)


def _expected(margins: Tensor, shares: Tensor) -> Tensor:
    return (shares[:, None] * (margins <= 0)).sum(0)
