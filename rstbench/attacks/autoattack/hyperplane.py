"""Projections of images on hyperplanes within the box [0, 1], the inner step of FAB.

Find d of least norm with <w, t + d> = b and t + d in [0, 1]; where none exists, d goes as far as the box
allows. t, w: (n, pixels), b: (n,). Two ways to it: `sorted_*` sort the pixels by where they meet the box and
order the arithmetic as the published code does, so that they give its bits; the others find the root of a
concave piecewise linear function by Newton's method, which needs no sort.
Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
ICML 2020, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .bisection import last_true

FAR = 1e12  # for a pixel that never meets the box
NO_WEIGHT = 1e-8  # a pixel of less weight does not move
NEWTON_STEPS = {"Linf": 3, "L2": 5}  # from below; three evaluations end exactly on average in Linf

Projection = Callable[[Tensor, Tensor, Tensor], Tensor]


def sorted_linf(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Return d (n, pixels) of least Linf norm."""
    side = _side((w * t).sum(1) - b)
    w, b = w * side[:, None], b * side
    low = (w < 0).float()
    moves = (w != 0).float()
    d = (low - t) * moves
    room = low - t * (2 * low - 1)
    order = room.argsort(dim=1)
    b = b - (w * t).sum(1)
    at_walls = (w * d).sum(1)
    falling = order.flip(1)
    weights = w.gather(1, falling)
    total = weights.abs().cumsum(1)
    moved = (-weights * d.gather(1, falling)).cumsum(1) + at_walls[:, None]
    far = room.shape[1] - 1
    b = b[:, None]

    def misses(index: Tensor) -> Tensor:
        wall = room.gather(1, order.gather(1, far - index))
        return b - (moved.gather(1, index) - total.gather(1, index) * wall) > 0

    free = misses(torch.full_like(order[:, :1], far))  # no pixel meets a wall
    last = torch.where(free, far, last_true(misses, t, far))
    length = ((b - moved.gather(1, last)) / -total.gather(1, last)).clamp_min(0)
    clipped = torch.min(length, d) * low + torch.max(-length, d) * (1 - low)
    reached = b - at_walls[:, None] > 0
    return torch.where(free, (2 * low - 1) * length, torch.where(reached, clipped, d)) * moves


def sorted_l2(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Return d (n, pixels) of least L2 norm."""
    gap = (w * t).sum(1) - b
    side = _side(gap)
    w, gap = w * side[:, None], (gap * side)[:, None]
    moves = w.abs() > NO_WEIGHT
    wall = torch.max(t / w, (t - 1) / w).clamp(min=-FAR, max=FAR).masked_fill(w.abs() < NO_WEIGHT, FAR)
    wall = torch.where(wall == -FAR, FAR, wall)
    walls, order = wall.sort(dim=1)
    next_walls = torch.nn.functional.pad(walls[:, 1:], (0, 1))
    walls, next_walls = walls.masked_fill(walls == FAR, 0), next_walls.masked_fill(next_walls == FAR, 0)
    squares = (w**2).gather(1, order)
    norm = squares.sum(1, keepdim=True)
    free = norm - squares.cumsum(1)
    d = -(wall * w) * moves.float()
    first = norm * walls[:, :1]
    moved = torch.cat((-first, torch.cumsum((-next_walls + walls) * free, dim=1) - first), 1)
    last = last_true(lambda index: moved.gather(1, index) + gap > 0, t, t.shape[1] - 1)
    left = free.gather(1, last)
    length = (moved.gather(1, last) + gap) / left + walls.gather(1, last)
    length = torch.where(left == 0, 0.0, length)
    past = (length > wall).float()
    clipped = d * past - length * w * (1 - past)
    before_walls = moved[:, :1] + gap < 0
    beyond = (d * w).sum(1, keepdim=True) + gap > 0
    within = torch.where(beyond, d, clipped)
    return torch.where(before_walls, -(gap / norm) * w, within) * moves.float()


def sorted_l1(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Return d (n, pixels) of least L1 norm."""
    gap = (w * t).sum(1) - b
    side = _side(gap)
    w, gap = w * side[:, None], (gap * side)[:, None]
    order = (1 / w).abs().clamp_max(FAR).argsort(dim=1)
    d = (-t + (w < 0).float()) * (w != 0).float()
    gains = torch.min(-w * t, w * (1 - t)).gather(1, order)
    left = torch.cat((gap, gains), 1).cumsum(1)
    halvings = math.ceil(math.log2(t.shape[1]))
    last = last_true(lambda index: left.gather(1, index) > 0, t, left.shape[1], halvings)
    # The pixels before `last` go to their walls, that one as far as is needed, the others nowhere.
    pixel = order.gather(1, last.clamp_max(t.shape[1] - 1))
    part = -left.gather(1, last) / w.gather(1, pixel)
    filled = d * (order.argsort(dim=1) < last).float()
    filled = filled.scatter(1, pixel, part)
    return torch.where(left[:, -1:] < 0, filled, d) * (w.abs() > NO_WEIGHT).float()


def linf(t: Tensor, w: Tensor, gap: Tensor) -> Tensor:
    """Return d (n, pixels) of least Linf norm; gap: <w, t> - b."""
    size, toward, room, need = _rooms(t, w, gap)
    work = torch.empty_like(room)  # a mask of floats is several times faster than one of truth values
    length = need / size.sum(1, keepdim=True)
    for _ in range(NEWTON_STEPS["Linf"]):
        short = need - torch.minimum(length, room, out=work).mul_(size).sum(1, keepdim=True)
        slope = torch.gt(room, length, out=work).mul_(size).sum(1, keepdim=True)
        length = torch.where(slope > 0, length + short / slope, 1.0).clamp_max(1.0)
    return torch.minimum(length, room, out=work).mul_(toward)


def l2(t: Tensor, w: Tensor, gap: Tensor) -> Tensor:
    """Return d (n, pixels) of least L2 norm; gap: <w, t> - b."""
    size, toward, room, need = _rooms(t, w, gap)
    work, squares = torch.empty_like(room), size * size
    length = need / squares.sum(1, keepdim=True)
    for _ in range(NEWTON_STEPS["L2"]):
        step = length * size
        short = need - torch.minimum(step, room, out=work).mul_(size).sum(1, keepdim=True)
        slope = torch.gt(room, step, out=work).mul_(squares).sum(1, keepdim=True)
        length = torch.where(slope > 0, length + short / slope, FAR).clamp_max(FAR)
    return torch.minimum(size.mul_(length), room, out=work).mul_(toward)


def l1(t: Tensor, w: Tensor, gap: Tensor) -> Tensor:
    """Return d (n, pixels) of least L1 norm; gap: <w, t> - b. Pixels are filled by falling weight."""
    size, toward, room, need = _rooms(t, w, gap)
    size, order = size.sort(dim=1, descending=True)
    room = room.gather(1, order)
    gains = size * room
    missing = need - (gains.cumsum(1) - gains)
    filled = torch.where(size > NO_WEIGHT, torch.min(missing.clamp_min(0) / size, room), 0.0)
    return toward * torch.empty_like(room).scatter_(1, order, filled)


def _side(gap: Tensor) -> Tensor:
    """Return on which side of its hyperplane each point is, 1 or -1."""
    return 2 * (gap >= 0) - 1


def _rooms(t: Tensor, w: Tensor, gap: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights |w|, the direction of each pixel, its room up to the wall, and what is to be gained."""
    toward = w.sign().mul_(-_side(gap)[:, None])
    room = (t - 0.5).mul_(toward).neg_().add_(0.5)
    return w.abs(), toward, room, gap.abs()[:, None]


SORTED: Mapping[str, Projection] = {"Linf": sorted_linf, "L2": sorted_l2, "L1": sorted_l1}
SORT_FREE: Mapping[str, Projection] = {"Linf": linf, "L2": l2, "L1": l1}
