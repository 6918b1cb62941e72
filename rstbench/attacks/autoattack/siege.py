"""The images under attack by one stage, the rows it attacks at once, and what has fallen.

A row is an image with the number of an attempt on it: a restart or a target class. The exact way attacks all
images that stand by one attempt after the other, as the published code does. The fast way takes rows in the
same order, but as many at once as suit the device, and drops all rows of an image once it has fallen. Which
rows come together follows from the images of the shard alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ...progress import is_due
from .source import Source

CAPACITY = {"cpu": 100, "cuda": 2000}  # rows at once in the fast way, by the type of the device
BLOCK = 10  # steps between two looks at what has fallen
_APART = 7919  # between the seeds of two attempts


class Rows(NamedTuple):
    """Rows: `image` and `attempt` (rows,), the images x (rows, c, h, w), their labels, and target classes."""

    image: Tensor
    attempt: Tensor
    x: Tensor
    y: Tensor
    target: Tensor

    def chosen(self, rows: Tensor) -> Rows:
        """Return some of the rows."""
        return Rows(*(part[rows] for part in self))


@dataclass
class Siege:
    """The images that one stage attacks.

    x, y: the images (n, c, h, w) and labels (n,); place: which of the shard's images they are, int64 (n,);
    shard_size: how many images that has; seed: of the stage; tell: takes how many images stand, and the
    share of the stage that is done. images, fallen: the adversarial images, others as they came, and which
    they are, bool (n,); zero_gradient: whether an image had none where the stage looks for it.
    """

    source: Source
    x: Tensor
    y: Tensor
    place: Tensor
    shard_size: int
    seed: int
    tell: Callable[[int, float], None] = lambda standing, done: None
    zero_gradient: bool = False
    images: Tensor = field(init=False)
    fallen: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.images = self.x.clone()
        self.fallen = torch.zeros_like(self.y, dtype=torch.bool)
        self.generator = Generator().manual_seed(self.seed)
        self._begun = self._attempts = 1

    @property
    def fast(self) -> bool:
        return self.source.exact is not None

    def waves(self, attempts: int) -> Iterator[Rows]:
        """Yield the rows of all attempts on images that stand, some at a time."""
        self._attempts = attempts
        if not self.fast:
            for attempt in range(attempts):
                standing = (~self.fallen).nonzero()[:, 0]
                if len(standing):
                    self._begun = attempt
                    yield self._rows(standing, torch.full_like(standing, attempt))
            return
        image = torch.arange(len(self.y), device=self.y.device).repeat(attempts)
        attempt_of = torch.arange(attempts, device=self.y.device).repeat_interleave(len(self.y))
        capacity = CAPACITY.get(self.y.device.type, CAPACITY["cpu"])
        while True:
            stands = ~self.fallen[image]
            image, attempt_of = image[stands], attempt_of[stands]
            if not len(image):
                return
            self._begun = int(attempt_of[0])
            yield self._rows(image[:capacity], attempt_of[:capacity])
            image, attempt_of = image[capacity:], attempt_of[capacity:]

    def random(self, rows: Rows, sample: Callable[..., Tensor], *shape: int) -> Tensor:
        """Return random numbers (rows, *shape) by `torch.rand` or `torch.randn`.

        In the exact way they are drawn for these rows, in the order of the published code; in the fast way
        for all images of the shard by attempt, so that none gets others because another has fallen.
        """
        device = self.x.device
        if not self.fast:
            return sample(len(rows.image), *shape, generator=self.generator).to(device)
        drawn = torch.empty(len(rows.image), *shape, device=device)
        for attempt in rows.attempt.unique().tolist():
            generator = Generator().manual_seed(self.seed + _APART * attempt)
            chosen = (rows.attempt == attempt).nonzero()[:, 0]
            whole = sample(self.shard_size, *shape, generator=generator).to(device)
            drawn[chosen] = whole[self.place[rows.image[chosen]]]
        return drawn

    def record(self, rows: Rows, broken: Tensor, adversarial: Tensor) -> Tensor:
        """Note which images fell, and return which rows to go on with, int64.

        broken: which rows the source got wrong, bool (rows,); adversarial: their images. In the fast way the
        exact model is asked too, and what it gets right stands.
        """
        found = broken.nonzero()[:, 0]
        if self.fast and len(found):
            found = found[self.source.are_wrong(adversarial[found], rows.y[found])]
        self.images[rows.image[found]] = adversarial[found]
        self.fallen[rows.image[found]] = True
        return (~self.fallen[rows.image]).nonzero()[:, 0]

    def progress(self, done: float) -> None:
        """Report, where that is due, that the rows under attack have done this share of their steps."""
        if is_due():
            standing = int((~self.fallen).sum())
            self.tell(standing, min(1.0, (self._begun + done) / self._attempts))

    def _rows(self, image: Tensor, attempt: Tensor) -> Rows:
        return Rows(image, attempt, self.x[image], self.y[image], self.y[image])
