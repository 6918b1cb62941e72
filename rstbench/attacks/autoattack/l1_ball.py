"""The projection of perturbations into an L1 ball and the box [0, 1] at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .bisection import last_true


def correction(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """Return what to add to perturbations so that x + delta lies in the L1 ball around x and in the box.

    x, delta: (n, ...), any delta; eps: the ball's radius. By sorting, exact up to rounding; the arithmetic is
    ordered as in the published code. Source: Croce and Hein, "Mind the box: l1-APGD for sparse adversarial
    attacks on image classifiers", ICML 2021, section 2.
    """
    flat, center = delta.reshape(len(delta), -1), x.reshape(len(x), -1)
    size = flat.abs()
    # Each entry shrinks at least to the box (by `box`, at most zero), at most to zero.
    box = torch.min(1 - center - flat, center + flat).clamp_max(0)
    ends, order = torch.cat((-box, size), 1).sort(dim=1)
    next_end = torch.cat((ends[:, 1:], torch.zeros_like(ends[:, :1])), 1)
    active = (2 * (order < box.shape[1]).float() - 1).cumsum(1)
    least = -box.sum(1, keepdim=True)
    surplus = eps - size.sum(1, keepdim=True)
    shrunk = least + torch.cumsum((next_end - ends) * active, dim=1)
    last = last_true(lambda index: shrunk.gather(1, index) + surplus < 0, x, ends.shape[1] - 1)
    slope = active.gather(1, last + 1)
    level = (-shrunk.gather(1, last) - surplus) / slope + next_end.gather(1, last)
    further = -torch.min(torch.max(-box, level), size)
    changed = torch.where(least + surplus < 0, further, box)
    return (flat.sign() * changed).view_as(delta)
