"""Auto-PGD as AutoAttack runs it: on cross-entropy, on DLR, and on DLR towards target classes.

Source: Croce and Hein, ICML 2020, algorithm 1; for L1: Croce and Hein, ICML 2021 ("Mind the box").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...threat import Threat
from .l1_ball import correction
from .losses import LOSSES
from .moves import MOMENTUM, SAMPLERS, l1_step, l2_step, linf_step, random_start
from .pool import BLOCK, Pool, Rows
from .source import Source, put, wrong

RISES = 0.75  # share of the steps of a period that must raise the loss
LARGE_RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # radii in eps, and their shares of the steps, for L1
SPARSER = 0.95  # in L1 the step is long again where the perturbation has become sparser by this factor
SHRINK, LEAST = 1.5, 10.0  # in L1 the step is divided by the first, down to eps over the second
SUPPORT = 0.2  # share of the pixels that the first steps move in L1


class Run(NamedTuple):
    """The state of rows under attack; the first dimension of each tensor are the rows.

    low, high: the walls of ball and box in Linf; adversarial: the last iterate that was wrong, where
    `is_wrong`; last, top, checked: the loss of the last iterate, the best one, and the best one at the last
    checkpoint; size: of the next step; rises: how often the loss rose since that checkpoint; halved: whether
    the step was halved there; support: in L1 the share of the pixels that a step moves; moved: how many
    pixels the best iterate had moved at that checkpoint.
    """

    rows: Rows
    low: Tensor
    high: Tensor
    iterate: Tensor
    previous: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    adversarial: Tensor
    is_wrong: Tensor
    last: Tensor
    top: Tensor
    checked: Tensor
    size: Tensor
    rises: Tensor
    halved: Tensor
    support: Tensor
    moved: Tensor

    def chosen(self, rows: Tensor) -> Run:
        """Return some of the rows."""
        return Run(self.rows.chosen(rows), *(part[rows] for part in self[1:]))


@dataclass(frozen=True)
class APGD:
    """A stage of APGD.

    loss: a name of `LOSSES`; restarts: from random starts; targets: how many target classes, by falling
    logit, one restart each (0: none); passes: gradients that are averaged, for randomised models;
    large_radii: in L1, begin in larger balls.
    """

    loss: str
    steps: int
    restarts: int = 1
    targets: int = 0
    passes: int = 1
    large_radii: bool = False

    follows_gradients: ClassVar[bool] = True

    @property
    def cost(self) -> int:
        """Return the passes that an image takes which survives."""
        return 2 * (self.steps + 1) * (self.targets or self.restarts) * self.passes

    def __call__(self, pool: Pool, threat: Threat) -> None:
        """Attack the images of the pool, which keeps what is broken."""
        ranked = pool.source.logits(pool.x).sort(dim=1)[1].flip(1) if self.targets else None
        for rows in pool.batches(self.targets or self.restarts):
            if ranked is not None:
                rows = rows._replace(target=ranked[rows.image, rows.attempt + 1])
            self._attack(pool, rows, threat.norm, float(threat.eps))

    def _attack(self, pool: Pool, rows: Rows, norm: str, eps: float) -> None:
        """Run all steps on some rows; in L1 from larger balls to the smallest."""
        phases, start = [(eps, self.steps)], None
        shape = rows.x.shape[1:]
        if self.large_radii:
            phases = _phases(eps, self.steps)
            noisy = rows.x + pool.random(rows, torch.randn, *shape)
            start = noisy + correction(rows.x, noisy - rows.x, phases[0][0])
        for index, (radius, steps) in enumerate(phases):
            if start is None:
                start = random_start(rows.x, pool.random(rows, SAMPLERS[norm], *shape), norm, radius)
            else:
                start = start + correction(rows.x, start - rows.x, radius)
                if not pool.fast:  # the published code draws numbers here that it does not use
                    pool.random(rows, SAMPLERS[norm], *shape)
            run = self._begin(pool, rows, start.clamp(0.0, 1.0), norm, radius)
            run = self._climb(pool, run, norm, radius, steps, final=index == len(phases) - 1)
            rows, start = run.rows, run.best
        pool.record(run.rows, run.is_wrong, run.adversarial)

    def _begin(self, pool: Pool, rows: Rows, start: Tensor, norm: str, eps: float) -> Run:
        logits, loss, gradient = self.evaluate(pool.source, rows, start)
        if self.loss != "ce":
            pool.zero_gradient |= bool((gradient.flatten(1).abs().sum(1) == 0).any())
        support, moved = torch.full_like(loss, SUPPORT), torch.full_like(loss, rows.x[0].numel())
        if self.large_radii:
            moved = _moved_pixels(rows.x, start)
            support = moved / rows.x[0].numel() / 1.5
        return Run(
            rows,
            (rows.x - eps).clamp_(0.0, 1.0),
            (rows.x + eps).clamp_(0.0, 1.0),
            start,
            start,
            gradient,
            start.clone(),
            gradient.clone(),
            start.clone(),
            wrong(logits, rows.y),
            torch.zeros_like(loss),  # as the published code, which compares the first loss with an empty slot
            loss,
            loss,
            torch.full_like(loss, eps if norm == "L1" else 2.0 * eps),
            torch.zeros_like(loss),
            torch.ones_like(loss, dtype=torch.bool),
            support,
            moved,
        )

    def _climb(self, pool: Pool, run: Run, norm: str, eps: float, steps: int, *, final: bool) -> Run:
        """Take all steps; in the fast way drop what is broken, unless a smaller ball follows."""
        ends = checkpoints(self.steps) if norm != "L1" else sparsity_checkpoints(steps)
        began = 0
        for step in range(1, steps + 1):
            run = self.step(pool.source, run, norm, eps, first=step == 1)
            if step in ends:
                run = _lengthen_or_shrink(run, eps) if norm == "L1" else _halve(run, step - began)
                began = step
            if pool.fast and final and step % BLOCK == 0:
                surviving = pool.record(run.rows, run.is_wrong, run.adversarial)
                run.is_wrong.zero_()  # where the image survives, only the copy was wrong
                run = run.chosen(surviving) if len(surviving) < len(run.last) else run
                if not len(surviving):
                    break
            pool.progress(step / steps)
        return run

    def step(self, source: Source, run: Run, norm: str, eps: float, *, first: bool) -> Run:
        """Take one step; the best and the adversarial images are changed in place."""
        x, share = run.rows.x, 1.0 if first else MOMENTUM
        if norm == "Linf":
            new = linf_step(run.low, run.high, run.iterate, run.previous, run.gradient, run.size, share)
        elif norm == "L2":
            new = l2_step(x, run.iterate, run.previous, run.gradient, run.size, share, eps)
        else:
            new = l1_step(x, run.iterate, run.gradient, run.size, run.support, eps)
        logits, loss, gradient = self.evaluate(source, run.rows, new)
        is_wrong, better = wrong(logits, run.rows.y), loss > run.top
        put(run.adversarial, is_wrong, new)
        put(run.best, better, new)
        put(run.best_gradient, better, gradient)
        return run._replace(
            iterate=new,
            previous=run.iterate,
            gradient=gradient,
            is_wrong=run.is_wrong | is_wrong,
            last=loss,
            top=torch.where(better, loss, run.top),
            rises=run.rises + (loss > run.last),
        )

    def evaluate(self, source: Source, rows: Rows, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last pass's logits and losses, and the mean gradient over all passes."""
        loss_of = LOSSES[self.loss]
        total: Tensor | None = None
        for _ in range(self.passes):
            logits, loss, gradient = source.gradient(images, lambda z: loss_of(z, rows.y, rows.target))
            total = gradient if total is None else total + gradient
        assert total is not None
        return logits, loss, total / float(self.passes) if self.passes > 1 else total


def checkpoints(steps: int) -> frozenset[int]:
    """Return after which steps the step size may be halved: the gaps shrink from 0.22 to 0.06 of all."""
    gap, ends = max(int(0.22 * steps), 1), [0]
    while ends[-1] < steps:
        ends.append(ends[-1] + gap)
        gap = max(gap - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return frozenset(ends[1:])


def sparsity_checkpoints(steps: int) -> frozenset[int]:
    """Return after which steps the sparsity is looked at, in L1."""
    gap = max(int(0.04 * steps), 1)
    return frozenset(range(gap, steps + 1, gap))


def _phases(eps: float, steps: int) -> list[tuple[float, int]]:
    """Return the radii to begin with in L1, and how many of the steps each takes."""
    counts = [math.ceil(share * steps) for _, share in LARGE_RADII]
    counts[-1] = steps - sum(counts[:-1])
    return [(factor * eps, count) for (factor, _), count in zip(LARGE_RADII, counts, strict=True)]


def _halve(run: Run, period: int) -> Run:
    """Halve the step where the loss has stopped rising, and go on from the best iterate there."""
    slow = run.rises <= period * RISES
    stuck = ~run.halved & (run.checked >= run.top)
    halved = slow | stuck
    run = run._replace(halved=halved, checked=run.top, size=torch.where(halved, run.size / 2, run.size))
    return _return_to_best(run, halved)


def _lengthen_or_shrink(run: Run, eps: float) -> Run:
    """Take long steps again from the best iterate where it has become sparser, else shorter ones, in L1."""
    moved = _moved_pixels(run.rows.x, run.best)
    sparser = moved / run.moved < SPARSER
    size = torch.where(sparser, eps, run.size / SHRINK).clamp(eps / LEAST, eps)
    support = moved / run.rows.x[0].numel() / 1.5
    return _return_to_best(run._replace(size=size, support=support, moved=moved), sparser)


def _return_to_best(run: Run, chosen: Tensor) -> Run:
    put(run.iterate, chosen, run.best)
    put(run.gradient, chosen, run.best_gradient)
    return run._replace(rises=torch.zeros_like(run.rises))


def _moved_pixels(x: Tensor, images: Tensor) -> Tensor:
    return (images - x != 0).flatten(1).sum(1)
