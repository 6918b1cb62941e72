"""Fast Adaptive Boundary attack: walk along the boundary of the class towards the image.

Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
ICML 2020, algorithm 1. The arithmetic of the exact way is ordered as in AutoAttack's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...threat import Threat
from .hyperplane import SORT_FREE, SORTED
from .moves import SAMPLERS
from .pool import BLOCK, Pool, Rows
from .source import Source, per_image, put, wrong

OVERSHOOT = 1.05  # how far to go beyond the hyperplane
BIAS = 0.1  # largest share of the step that begins from the clean image
BACKWARD = 0.9  # how far to stay from the clean image once the boundary is crossed
FAR = 1e10
TINY = 1e-12


class Walk(NamedTuple):
    """Rows with their iterates, the nearest adversarial images so far and their distances (rows,)."""

    rows: Rows
    iterate: Tensor
    nearest: Tensor
    distance: Tensor

    def chosen(self, rows: Tensor) -> Walk:
        """Return some of the rows."""
        return Walk(self.rows.chosen(rows), *(part[rows] for part in self[1:]))


@dataclass(frozen=True)
class FAB:
    """A stage of FAB.

    targets: how many target classes, by falling logit (0: the nearest of all classes at each step);
    restarts: without targets, the first from the image itself and the others from random ones.
    """

    targets: int = 0
    restarts: int = 1
    steps: int = 100

    follows_gradients: ClassVar[bool] = True

    @property
    def cost(self) -> int:
        """Return the passes that an image takes which survives; untargeted ones take one backward a class."""
        return self.steps * (3 * self.targets if self.targets else 12 * self.restarts)

    def __call__(self, pool: Pool, threat: Threat) -> None:
        """Attack the images of the pool, which keeps what is broken."""
        norm, eps = threat.norm, float(threat.eps)
        ranked = pool.source.logits(pool.x).sort(dim=1)[1].flip(1) if self.targets else None
        for rows in pool.batches(self.targets or self.restarts):
            start = rows.x
            if ranked is not None:
                rows = rows._replace(target=ranked[rows.image, rows.attempt + 1])
            elif self.restarts > 1:
                start = _starts(pool, rows, norm, eps)
            walk = Walk(rows, start.clone(), rows.x.clone(), torch.full_like(rows.x[:, 0, 0, 0], FAR))
            for step in range(1, self.steps + 1):
                walk = self.step(pool.source, walk, norm, fast=pool.fast)
                if pool.fast and step % BLOCK == 0:
                    surviving = pool.record(walk.rows, walk.distance <= eps, walk.nearest)
                    # Where the image survives, only the copy was wrong.
                    walk.distance.masked_fill_(walk.distance <= eps, FAR)
                    walk = walk.chosen(surviving) if len(surviving) < len(walk.distance) else walk
                    if not len(surviving):
                        break
                pool.progress(step / self.steps)
            pool.record(walk.rows, self._found(pool, walk, eps), walk.nearest)

    def _found(self, pool: Pool, walk: Walk, eps: float) -> Tensor:
        found = walk.distance <= eps
        if pool.fast:
            return found
        # The published code asks the model once more.
        images = torch.where(per_image(walk.distance < FAR, walk.nearest), walk.nearest, walk.rows.x)
        return found & wrong(pool.source.logits(images), walk.rows.y)

    def step(self, source: Source, walk: Walk, norm: str, *, fast: bool) -> Walk:
        """Step to the boundary as it looks from the iterate; the nearest images are changed in place."""
        rows, x, count = walk.rows, walk.iterate, len(walk.distance)
        difference, slope = self._boundary(source, rows, x, norm)
        now, clean, w = x.flatten(1), rows.x.flatten(1), slope.flatten(1)
        if fast:
            gap = difference
            project = SORT_FREE[norm]
            to_now = project(now, w, gap)
            to_clean = project(clean, w, gap + (clean - now).mul_(w).sum(1))
        else:
            b = -difference + (slope * x).flatten(1).sum(1)
            both = SORTED[norm](torch.cat((now, clean)), torch.cat((w, w)), torch.cat((b, b)))
            to_now, to_clean = both[:count], both[count:]
        lengths = [_norm(part, norm).clamp_min(1e-8) for part in (to_now, to_clean)]
        share = per_image((lengths[0] / (lengths[0] + lengths[1])).clamp(0.0, BIAS), x)
        ahead = to_now.view_as(x).mul_(OVERSHOOT).add_(x).mul_(1 - share)
        back = to_clean.view_as(x).mul_(OVERSHOOT).add_(rows.x).mul_(share)
        new = ahead.add_(back).clamp_(0.0, 1.0)
        crossed = wrong(source.logits(new), rows.y)
        delta = new - rows.x
        distance = _norm(delta.flatten(1), norm)
        nearer = crossed & (distance < walk.distance)
        put(walk.nearest, nearer, new)
        put(new, crossed, delta.mul_(BACKWARD).add_(rows.x))
        return walk._replace(iterate=new, distance=torch.where(nearer, distance, walk.distance))

    def _boundary(self, source: Source, rows: Rows, x: Tensor, norm: str) -> tuple[Tensor, Tensor]:
        """Return how far each row is from its boundary in logits (rows,), and the gradient of that."""
        if self.targets:
            label, target = rows.y[:, None], rows.target[:, None]

            def towards(logits: Tensor) -> tuple[Tensor, Tensor]:
                slope = torch.zeros_like(logits).scatter_(1, label, -1.0).scatter_(1, target, 1.0)
                return (logits.gather(1, target) - logits.gather(1, label))[:, 0], slope

            _, difference, gradient = source.gradient(x, towards)
            return difference, gradient.nan_to_num(0.0, 0.0, 0.0)
        logits, gradients = source.jacobian(x)
        every = torch.arange(len(x), device=x.device)
        difference = logits - logits[every, rows.y][:, None]
        slopes = gradients - gradients[every, rows.y][:, None]
        difference[every, rows.y] = FAR
        flat = slopes.flatten(2)
        steepness = {"Linf": flat.abs().sum(2), "L2": (flat**2).sum(2).sqrt(), "L1": flat.abs().amax(2)}
        nearest = (difference.abs() / (TINY + steepness[norm])).argmin(1)
        return difference[every, nearest], slopes[every, nearest].nan_to_num(0.0, 0.0, 0.0)


def _starts(pool: Pool, rows: Rows, norm: str, eps: float) -> Tensor:
    """Return the images themselves for attempt 0, for others random ones at half of eps."""
    if not pool.fast and not int(rows.attempt[0]):
        return rows.x  # the published code draws no numbers here
    noise = pool.random(rows, SAMPLERS[norm], *rows.x.shape[1:])
    noise = 2 * noise - 1 if norm == "Linf" else noise
    moved = (rows.x + eps * noise / per_image(_norm(noise.flatten(1), norm), rows.x) * 0.5).clamp(0.0, 1.0)
    return torch.where(per_image(rows.attempt > 0, moved), moved, rows.x)


def _norm(flat: Tensor, norm: str) -> Tensor:
    """Return the norm of rows (n, pixels)."""
    if norm == "Linf":
        return flat.abs().amax(1)
    return (flat**2).sum(1).sqrt() if norm == "L2" else flat.abs().sum(1)
