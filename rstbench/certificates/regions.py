"""Least values of linear functions over a ball within the box [0, 1], in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..threat import LINF_TOLERANCE, RELATIVE_TOLERANCE, Threat


def proved_radius(threat: Threat) -> float:
    """Return the radius of the ball that certificates prove: whatever the judge accepts lies inside."""
    eps = float(threat.eps)
    slack = LINF_TOLERANCE if threat.norm == "Linf" else RELATIVE_TOLERANCE * eps
    return math.nextafter(eps + slack, math.inf)


def box_around(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the least and largest value of each pixel in the ball, which is the same in the three norms."""
    return (x - eps).clamp_min(0), (x + eps).clamp_max(1)


def linear_minimum(coefficients: Tensor, x: Tensor, norm: str, eps: float) -> Tensor:
    """Bound the linear functions c·z from below over all z in [0, 1] with ‖z − x‖ ≤ eps.

    Linf and L1 are exact: each pixel goes to the wall that is nearest, of the ball or the box; the fractional
    knapsack fills the largest coefficients first. L2 is exact too, by the best Lagrange multiplier of the
    ball, and would be sound with any other.

    coefficients: (..., d), float64.  x: broadcasts to it, in [0, 1].
    Returns (...). The gradient with respect to the coefficients is the minimiser (the envelope theorem).
    """
    with torch.no_grad():
        magnitude = coefficients.abs()
        room = torch.where(coefficients > 0, x, 1 - x)  # how far each pixel can go downhill
        if norm == "Linf":
            moved, constant = room.clamp_max(eps), None
        elif norm == "L1":
            moved, constant = _knapsack(magnitude, room, eps), None
        else:
            moved, constant = _lagrange(magnitude, room, eps)
        point = x - coefficients.sign() * moved
    value = (coefficients * point).sum(-1)
    return value if constant is None else value + constant


def _knapsack(magnitude: Tensor, room: Tensor, eps: float) -> Tensor:
    """Return how far each pixel moves where the sum of moves is at most eps."""
    order = magnitude.argsort(dim=-1, descending=True)
    room = room.expand_as(magnitude).gather(-1, order)
    spent_before = room.cumsum(-1) - room
    moved = (eps - spent_before).clamp_min(0).minimum(room)
    return torch.zeros_like(magnitude).scatter_(-1, order, moved)


def _lagrange(magnitude: Tensor, room: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return moves that minimise −Σ c m + λ/2 (Σ m² − eps²) over 0 ≤ m ≤ room, and the term with λ.

    By weak duality the value is a lower bound for any λ ≥ 0. The norm of m = min(c/λ, room) falls with λ, so
    the best λ, where it is eps, lies between two of the values c/room at which pixels meet their walls.
    """
    room = room.expand_as(magnitude)
    walls = torch.where(magnitude > 0, magnitude / room, 0.0)  # inf where there is no room
    order = walls.argsort(dim=-1, descending=True)
    walls = walls.gather(-1, order)
    squares = magnitude.gather(-1, order).square()
    filled = room.gather(-1, order).square().cumsum(-1)
    rest = squares.flip(-1).cumsum(-1).flip(-1) - squares
    fits = (filled + torch.where(rest > 0, rest / walls.square(), 0.0) <= eps**2) | (walls == torch.inf)
    count = fits.sum(-1, keepdim=True)
    # With the first `count` pixels at their walls the others share what is left of the radius.
    nothing = torch.zeros_like(filled[..., :1])
    filled, rest = torch.cat([nothing, filled], -1), torch.cat([squares.sum(-1, keepdim=True), rest], -1)
    left = (eps**2 - filled.gather(-1, count)).clamp_min(1e-24)  # of eps = 0 there is nothing
    multiplier = (rest.gather(-1, count) / left).sqrt()
    reach = torch.where(magnitude > 0, magnitude / multiplier, 0.0)
    moved = reach.minimum(room)
    constant = multiplier[..., 0] / 2 * (moved.square().sum(-1) - eps**2)
    return moved, constant
