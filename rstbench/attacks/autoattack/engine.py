"""Chain the stages: each attacks what the ones before it left standing.

Without a faster copy of the model the images are those of AutoAttack's code, bit for bit. With one the
stages take the fast way, and a sample of what stands at the end is attacked without the copy too, by the
stages that follow gradients: a copy with poor ones would pass for robust.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ... import flags
from ...progress import StageReport, report
from ...threat import Threat
from ..spec import Crafted
from .siege import Siege
from .source import Source, wrong
from .stages import Stage

SAMPLED = 50  # one in so many images that stand is attacked without the copy too, and at least one
CHANCE, LEVEL = 1 / 200, 0.05  # how often two runs differ on an image, and what is beyond chance

Stages = Mapping[str, Stage]


def attack(source: Source, x: Tensor, y: Tensor, threat: Threat, stages: Stages, seed: int) -> Crafted:
    """Run the stages on images x (n, c, h, w) with labels y (n,).

    Images that are wrong from the start, or stand at the end, come back as they were.
    """
    crafted = run_stages(source, x, y, threat, stages, seed)
    if source.exact is None:
        return crafted
    following = {name: stage for name, stage in stages.items() if stage.follows_gradients}
    fallen = torch.stack(list(crafted.stages.values())).any(0)
    standing = (~fallen & ~source.are_wrong(x, y)).nonzero()[:, 0]
    order = torch.randperm(len(standing), generator=Generator().manual_seed(seed)).to(x.device)
    sample = standing[order[: math.ceil(len(standing) / SAMPLED)]].sort()[0]
    if not following or not len(sample):
        return crafted
    exact = Source(source.exact, source.exact)
    again = run_stages(exact, x[sample], y[sample], threat, following, seed)
    for name, broken in again.stages.items():
        crafted.stages[name][sample[broken]] = True
    crafted.images[sample] = again.images  # those that stand are clean in both
    weakened = beyond_chance(sum(int(broken.sum()) for broken in again.stages.values()), len(sample))
    raised = {*crafted.flags, *([flags.ACCELERATION_WEAKENED.name] if weakened else [])}
    return replace(crafted, flags=tuple(sorted(raised)))


def run_stages(source: Source, x: Tensor, y: Tensor, threat: Threat, stages: Stages, seed: int) -> Crafted:
    """Run the stages, each on what stands; the images of each fallen one are those that felled it."""
    images, stands = x.clone(), ~source.are_wrong(x, y)
    fallen, raised = dict[str, Tensor](), set[str]()
    meter = _Meter(stages, len(x))
    for name, stage in stages.items():
        place = stands.nonzero()[:, 0]
        fallen[name] = torch.zeros_like(stands)
        if not len(place):
            continue
        siege = Siege(source, x[place], y[place], place, len(x), seed, meter.begin(name, len(place)))
        stage(siege, threat)
        if siege.zero_gradient:
            raised.add(flags.ZERO_GRADIENT.name)
        # The published code asks once more, for all that a stage attacked.
        broken = siege.fallen if siege.fast else wrong(source.logits(siege.images), y[place])
        images[place[broken]] = siege.images[broken]
        fallen[name][place[broken]] = True
        stands = stands & ~fallen[name]
        meter.end(name, len(place))
    return Crafted(images, fallen, tuple(sorted(raised)))


def beyond_chance(differing: int, sampled: int) -> bool:
    """Return whether so many of the sampled images differing is beyond what two equal runs show."""
    below = sum(math.comb(sampled, k) * CHANCE**k * (1 - CHANCE) ** (sampled - k) for k in range(differing))
    return 1 - below < LEVEL


class _Meter:
    """Count the passes of all stages, to tell how far the attack is."""

    def __init__(self, stages: Stages, images: int) -> None:
        self.stages, self.images = stages, images
        self.spent = 0.0

    def begin(self, name: str, attacked: int) -> Callable[[int, float], None]:
        """Return what a stage tells how many images stand, and which share of its work is done."""
        names = list(self.stages)
        later = sum(self.stages[other].cost for other in names[names.index(name) + 1 :])

        def tell(standing: int, done: float) -> None:
            cost = self.stages[name].cost
            # Images fall early in a stage: what is left of it falls to those that stand.
            total = self.spent + cost * (attacked * done + standing * (1 - done)) + later * standing
            progress = self.spent + cost * attacked * done
            report(StageReport(name, standing, standing / self.images, progress, max(total, progress)))

        tell(attacked, 0.0)
        return tell

    def end(self, name: str, attacked: int) -> None:
        self.spent += self.stages[name].cost * attacked
