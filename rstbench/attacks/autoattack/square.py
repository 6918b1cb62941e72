"""The Square attack: windows of random colour, kept where they lower the margin. It asks for no gradient.

Source: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random
search", ECCV 2020; for L1: Croce and Hein, ICML 2021. The arithmetic and the random numbers are ordered as in
AutoAttack's code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from ...threat import Threat
from .pool import Pool, Rows
from .source import Source, per_image
from .tiles import Window, first_tiles, new_tiles

AREA = 0.8  # share of an image that the first windows cover
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the area is halved
BLOCK = 50  # queries between two looks at what has broken, in the fast way


class Search(NamedTuple):
    """Rows with their best images so far, and the margins of these (rows,).

    low, high: the walls of ball and box in Linf.
    """

    rows: Rows
    low: Tensor
    high: Tensor
    best: Tensor
    margin: Tensor

    def chosen(self, rows: Tensor) -> Search:
        """Return some of the rows."""
        return Search(self.rows.chosen(rows), *(part[rows] for part in self[1:]))


@dataclass(frozen=True)
class Square:
    """The stage: random search with `queries` windows an image."""

    queries: int = 5000

    follows_gradients: ClassVar[bool] = False

    @property
    def cost(self) -> int:
        """Return the passes that an image takes which survives."""
        return self.queries + 1

    def __call__(self, pool: Pool, threat: Threat) -> None:
        """Attack the images of the pool, which keeps what is broken."""
        eps = float(threat.eps)
        for rows in pool.batches(1):
            numbers = Numbers(pool)
            if threat.norm == "Linf":
                stripes = numbers.signs(rows, rows.x.shape[1], 1, rows.x.shape[3])
                best = torch.clamp(rows.x + eps * stripes, 0.0, 1.0)
            else:
                best = first_tiles(rows.x, partial(numbers.tile, rows), threat.norm, eps)
            low, high = (rows.x - eps).clamp_(0.0, 1.0), (rows.x + eps).clamp_(0.0, 1.0)
            search = Search(rows, low, high, best, margin(pool.source, best, rows.y))
            self._search(pool, search, numbers, threat.norm, eps)

    def _search(self, pool: Pool, search: Search, numbers: Numbers, norm: str, eps: float) -> None:
        shape = search.best.shape[1:]
        block = BLOCK if pool.fast else 1
        windows = self._windows(numbers, *shape) if norm == "Linf" else iter(())
        for query in range(self.queries):
            if query % block == 0:
                if bool((search.margin <= 0).any()):
                    surviving = pool.record(search.rows, search.margin <= 0, search.best)
                    search = search.chosen(surviving)
                if not len(search.margin):
                    return
                pool.progress(query / self.queries)
            if norm == "Linf":
                search = linf_query(pool.source, search, *next(windows), eps)
            else:
                side = side_of(query, shape[1], shape[2], odd=True)
                search = tile_query(pool.source, search, numbers, side, norm, eps)
        pool.record(search.rows, search.margin <= 0, search.best)

    def _windows(self, numbers: Numbers, c: int, h: int, w: int) -> Iterator[tuple[Window, Tensor]]:
        """Yield the window of each query and the signs (c, 1, 1) of its colour, all drawn beforehand."""
        drawn = numbers.next(self.queries, 2 + c)
        sides = [side_of(query, h, w) for query in range(self.queries)]
        room = torch.tensor([[h - side, w - side] for side in sides], dtype=torch.float32)
        corners = (room * drawn[:, :2]).long().tolist()
        colours = torch.sign(2 * drawn[:, 2:] - 1).view(-1, c, 1, 1).to(numbers.device)
        for (top, left), side, colour in zip(corners, sides, colours, strict=True):
            yield Window(top, left, side), colour


class Numbers:
    """The random numbers of the search, uniform on [0, 1).

    In the exact way from the stage's own sequence, as the published code draws them; in the fast way from
    one that begins anew with each batch, for all images of the shard, so that no image depends on others.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.device = pool.x.device
        self._generator = Generator().manual_seed(pool.seed) if pool.fast else pool.generator

    def next(self, *shape: int) -> Tensor:
        """Return the next numbers, on the CPU."""
        return torch.rand(*shape, generator=self._generator)

    def signs(self, rows: Rows, *shape: int) -> Tensor:
        """Return random signs (rows, *shape)."""
        pool = self.pool
        if not pool.fast:
            return torch.sign(2 * self.next(len(rows.image), *shape).to(self.device) - 1)
        drawn = self.next(pool.shard_size, *shape).to(self.device)
        return torch.sign(2 * drawn[pool.place[rows.image]] - 1)

    def corners(self, count: int, h: int, w: int, side: int) -> list[Window]:
        """Return random windows."""
        room = torch.tensor([h - side, w - side], dtype=torch.float32)
        return [Window(top, left, side) for top, left in (room * self.next(count, 2)).long().tolist()]

    def tile(self, rows: Rows) -> tuple[bool, Tensor]:
        """Return whether a tile is turned, and its signs (rows, c, 1, 1)."""
        turned = bool(self.next(1) > 0.5)
        return turned, self.signs(rows, rows.x.shape[1], 1, 1)


def side_of(query: int, h: int, w: int, *, odd: bool = False) -> int:
    """Return the side of the window of a query; odd: for tiles, which have at least 3 pixels."""
    area = AREA / 2 ** sum(query > after for after in HALVED_AFTER)
    side = max(round(math.sqrt(area * h * w)), 3 if odd else 1)
    side += 1 if odd and side % 2 == 0 else 0
    return min(side, h, w)


def margin(source: Source, images: Tensor, y: Tensor) -> Tensor:
    """Return the logit of y minus the largest other one, (n,); -inf where logits are not finite."""
    logits = source.logits(images)
    label = y[:, None]
    others = logits.scatter(1, label, -torch.inf).amax(1)
    return torch.where(logits.sum(1).isfinite(), logits.gather(1, label)[:, 0] - others, -torch.inf)


def linf_query(source: Source, search: Search, window: Window, colour: Tensor, eps: float) -> Search:
    """Colour one window of all images, and put it back where that does not help. Changes `best` in place."""
    part = window.of(search.best)
    old, shift = part.clone(), 2.0 * eps * colour
    new = (old + shift).clamp_(window.of(search.low), window.of(search.high))
    part.copy_(new)
    now = margin(source, search.best, search.rows.y)
    better = (now < search.margin) | (now <= 0)
    part.copy_(torch.where(per_image(better, new), new, old))
    return search._replace(margin=torch.where(better, now, search.margin))


def tile_query(source: Source, search: Search, numbers: Numbers, side: int, norm: str, eps: float) -> Search:
    """Move what one window of all images holds to another, where that helps."""
    x = search.rows.x
    to, away = numbers.corners(2, x.shape[2], x.shape[3], side)
    tile = numbers.tile(search.rows)
    images = new_tiles(x, search.best, to, away, tile, norm, eps)
    now = margin(source, images, search.rows.y)
    better = (now < search.margin) | (now <= 0)
    best = torch.where(per_image(better, images), images, search.best)
    return search._replace(best=best, margin=torch.where(better, now, search.margin))
