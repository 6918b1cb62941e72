"""The images that one stage attacks, the rows it attacks at once, and what is broken.

A row is an image with the number of an attempt on it: a restart or a target class. The exact way attacks all
images that survive by one attempt after the other, as the published code does. The fast way takes rows in the
same order, as many at once as the shard has images, and drops all rows of an image once it has broken. Which
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

BLOCK = 10  # steps between two looks at what has broken
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
class Pool:
    """The images that one stage attacks.

    x, y: the images (n, c, h, w) and labels (n,); place: which of the shard's images they are, int64 (n,);
    shard_size: how many images that has; capacity: most rows at once in the fast way; seed: of the stage;
    tell: takes how many images survive, and the share of the stage that is done. images, broken: the
    adversarial images, others as they came, and which they are, bool (n,); zero_gradient: whether an image
    had none where the stage looks for it.
    """

    source: Source
    x: Tensor
    y: Tensor
    place: Tensor
    shard_size: int
    capacity: int
    seed: int
    tell: Callable[[int, float], None] = lambda surviving, done: None
    zero_gradient: bool = False
    images: Tensor = field(init=False)
    broken: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.images = self.x.clone()
        self.broken = torch.zeros_like(self.y, dtype=torch.bool)
        self.generator = Generator().manual_seed(self.seed)
        self._begun = self._attempts = 1

    @property
    def fast(self) -> bool:
        return self.source.exact is not None

    def batches(self, attempts: int) -> Iterator[Rows]:
        """Yield the rows of all attempts on images that survive, some at a time."""
        self._attempts = attempts
        if not self.fast:
            for attempt in range(attempts):
                surviving = (~self.broken).nonzero()[:, 0]
                if len(surviving):
                    self._begun = attempt
                    yield self._rows(surviving, torch.full_like(surviving, attempt))
            return
        image = torch.arange(len(self.y), device=self.y.device).repeat(attempts)
        attempt_of = torch.arange(attempts, device=self.y.device).repeat_interleave(len(self.y))
        while True:
            surviving = ~self.broken[image]
            image, attempt_of = image[surviving], attempt_of[surviving]
            if not len(image):
                return
            self._begun = int(attempt_of[0])
            yield self._rows(image[: self.capacity], attempt_of[: self.capacity])
            image, attempt_of = image[self.capacity :], attempt_of[self.capacity :]

    def random(self, rows: Rows, sample: Callable[..., Tensor], *shape: int) -> Tensor:
        """Return random numbers (rows, *shape) by `torch.rand` or `torch.randn`.

        In the exact way they are drawn for these rows, in the order of the published code; in the fast way
        for all images of the shard by attempt, so that none gets others because another has broken.
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
        """Note which images broke, and return which rows to go on with, int64.

        broken: which rows the source got wrong, bool (rows,); adversarial: their images. In the fast way the
        exact model is asked too, and what it gets right survives.
        """
        found = broken.nonzero()[:, 0]
        if self.fast and len(found):
            found = found[self.source.are_wrong(adversarial[found], rows.y[found])]
        self.images[rows.image[found]] = adversarial[found]
        self.broken[rows.image[found]] = True
        return (~self.broken[rows.image]).nonzero()[:, 0]

    def progress(self, done: float) -> None:
        """Report, where that is due, that the rows under attack have done this share of their steps."""
        if is_due():
            surviving = int((~self.broken).sum())
            self.tell(surviving, min(1.0, (self._begun + done) / self._attempts))

    def _rows(self, image: Tensor, attempt: Tensor) -> Rows:
        return Rows(image, attempt, self.x[image], self.y[image], self.y[image])
