"""Chain the stages: each attacks what survived the ones before it.

Without a faster copy of the model the images are those of AutoAttack's code, bit for bit. With one the
stages take the fast way, and a sample of what survives at the end is attacked without the copy too, by the
stages that follow gradients: a copy with poor ones would pass for robust.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ... import flags
from ...progress import StageReport, listening, report
from ...threat import Threat
from ..spec import Crafted
from .pool import Pool
from .source import Source, wrong
from .stages import Stage

SAMPLED = 50  # one in so many survivors is attacked without the copy too, and at least one
CHANCE, LEVEL = 1 / 200, 0.05  # how often two runs differ on an image, and what is beyond chance

Stages = Mapping[str, Stage]


def attack(source: Source, x: Tensor, y: Tensor, threat: Threat, stages: Stages, seed: int) -> Crafted:
    """Run the stages on images x (n, c, h, w) with labels y (n,).

    Images that are wrong from the start, or survive, come back as they were.
    """
    crafted = run_stages(source, x, y, threat, stages, seed)
    if source.exact is None:
        return crafted
    following = {name: stage for name, stage in stages.items() if stage.follows_gradients}
    broken = torch.stack(list(crafted.stages.values())).any(0)
    surviving = (~broken & ~source.are_wrong(x, y)).nonzero()[:, 0]
    order = torch.randperm(len(surviving), generator=Generator().manual_seed(seed)).to(x.device)
    sample = surviving[order[: math.ceil(len(surviving) / SAMPLED)]].sort()[0]
    if not following or not len(sample):
        return crafted
    exact = Source(source.exact, source.exact)
    # Little is left, and its images are counted already.
    with listening(lambda stage_report: None), _subnormals_flushed(x):
        again = run_stages(exact, x[sample], y[sample], threat, following, seed, len(x))
    for name, broken in again.stages.items():
        crafted.stages[name][sample[broken]] = True
    crafted.images[sample] = again.images  # those that survive are clean in both
    weakened = beyond_chance(sum(int(broken.sum()) for broken in again.stages.values()), len(sample))
    raised = {*crafted.flags, *([flags.ACCELERATION_WEAKENED.name] if weakened else [])}
    return replace(crafted, flags=tuple(sorted(raised)))


def run_stages(
    source: Source, x: Tensor, y: Tensor, threat: Threat, stages: Stages, seed: int, capacity: int = 0
) -> Crafted:
    """Run the stages, each on what survived the ones before; broken images are those that each found.

    capacity: most rows at once in the fast way, by default as many as there are images, for which there is
    memory.
    """
    images, surviving = x.clone(), ~source.are_wrong(x, y)
    broken_by, raised = dict[str, Tensor](), set[str]()
    meter = _Meter(stages, len(x))
    for name, stage in stages.items():
        place = surviving.nonzero()[:, 0]
        broken_by[name] = torch.zeros_like(surviving)
        if not len(place):
            continue
        tell = meter.begin(name, len(place))
        pool = Pool(source, x[place], y[place], place, len(x), capacity or len(x), seed, tell)
        stage(pool, threat)
        if pool.zero_gradient:
            raised.add(flags.ZERO_GRADIENT.name)
        # The published code asks once more, for all that a stage attacked.
        broken = pool.broken if pool.fast else wrong(source.logits(pool.images), y[place])
        images[place[broken]] = pool.images[broken]
        broken_by[name][place[broken]] = True
        surviving = surviving & ~broken_by[name]
        meter.end(name, len(place))
    return Crafted(images, broken_by, tuple(sorted(raised)))


def beyond_chance(differing: int, sampled: int) -> bool:
    """Return whether so many of the sampled images differing is beyond what two equal runs show."""
    below = sum(math.comb(sampled, k) * CHANCE**k * (1 - CHANCE) ** (sampled - k) for k in range(differing))
    return 1 - below < LEVEL


@contextmanager
def _subnormals_flushed(x: Tensor) -> Iterator[None]:
    """Compute with zeros in place of subnormal numbers, which slow the exact model of a ticket manyfold."""
    if x.is_cuda:
        yield
        return
    before = float(torch.tensor(1e-40) * 1.0) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class _Meter:
    """Count the passes of all stages, to tell how far the attack is."""

    def __init__(self, stages: Stages, images: int) -> None:
        self.stages, self.images = stages, images
        self.spent = 0.0

    def begin(self, name: str, attacked: int) -> Callable[[int, float], None]:
        """Return what a stage tells how many images survive, and which share of its work is done."""
        names = list(self.stages)
        later = sum(self.stages[other].cost for other in names[names.index(name) + 1 :])

        def tell(surviving: int, done: float) -> None:
            cost = self.stages[name].cost
            # Images break early in a stage: what is left of it is spent on those that survive.
            total = self.spent + cost * (attacked * done + surviving * (1 - done)) + later * surviving
            progress = self.spent + cost * attacked * done
            report(StageReport(name, surviving, surviving / self.images, progress, max(total, progress)))

        tell(attacked, 0.0)
        return tell

    def end(self, name: str, attacked: int) -> None:
        self.spent += self.stages[name].cost * attacked
