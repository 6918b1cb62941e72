"""The perturbations of the Square attack in L2 and L1: tiles with a bright and a dark half.

Source: Andriushchenko et al., ECCV 2020, section 3.4; for L1: Croce and Hein, ICML 2021, section 4. The
arithmetic is ordered as in AutoAttack's code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .l1_ball import correction

INSIDE = 1 - 1e-6  # of eps, the radius of the L1 ball that is used
TINY = 1e-12
FALL = {"L2": 2, "L1": 4}  # the power by which a tile falls off from its centre

Tile = tuple[bool, Tensor]  # whether it is turned, and its signs (n, c, 1, 1)


class Window(NamedTuple):
    """A square of pixels."""

    top: int
    left: int
    side: int

    def of(self, images: Tensor) -> Tensor:
        """Return the window's part of images (n, c, h, w), a view."""
        return images[:, :, self.top : self.top + self.side, self.left : self.left + self.side]


def first_tiles(x: Tensor, draw: Callable[[], Tile], norm: str, eps: float) -> Tensor:
    """Return images x (n, c, h, w) with a grid of five tiles by five; draw: the next tile."""
    h, w = x.shape[2:]
    side = max(h // 5, 1)
    edge = (h - side * 5) // 2
    delta = torch.zeros_like(x)
    for row in range(h // side):
        for column in range(w // side):
            part = Window(edge + row * side, edge + column * side, side).of(delta)
            part += pattern(norm, side, draw(), x.device)[:, :, : part.shape[2], : part.shape[3]]
    if norm == "L2":
        return torch.clamp(x + delta / (_size(delta, norm) + TINY) * eps, 0.0, 1.0)
    return x + delta + correction(x, delta, eps * INSIDE)


def new_tiles(x: Tensor, best: Tensor, to: Window, away: Window, tile: Tile, norm: str, eps: float) -> Tensor:
    """Return the images `best` with the perturbation of window `away` moved into a tile in window `to`."""
    delta, channels = best - x, x.shape[1]
    old = to.of(delta)
    touched = torch.zeros(1, 1, *x.shape[2:], device=x.device)
    to.of(touched).fill_(1.0)
    away.of(touched).fill_(1.0)
    size, budget = _size(delta, norm), _window_size(delta * touched, norm)
    new = pattern(norm, to.side, tile, x.device) + old / (TINY + _window_size(old, norm))
    new = new / (TINY + _window_size(new, norm))
    if norm == "L2":
        unused = torch.full_like(size, eps) ** 2 - size**2
        new = new * (unused.clamp_min(0) / channels + budget**2).sqrt()
    else:
        new = new * ((eps - size).clamp_min(0) / channels + budget) * channels
    away.of(delta).zero_()
    old.copy_(new)
    if norm == "L2":
        return torch.clamp(x + delta / (_size(delta, norm) + TINY) * eps, 0.0, 1.0)
    return x + delta + correction(x, delta, eps * INSIDE)


def pattern(norm: str, side: int, tile: Tile, device: torch.device) -> Tensor:
    """Return tiles (n, c, side, side)."""
    turned, signs = tile
    shape = _tile(norm, side)
    return (shape.T.contiguous() if turned else shape).to(device).view(1, 1, side, side) * signs


@cache
def _tile(norm: str, side: int) -> Tensor:
    """Return a tile (side, side) of size 1: a bright upper half and a dark lower one."""
    tile = torch.cat([_bump(norm, side // 2, side), -1.0 * _bump(norm, side - side // 2, side)])
    return tile / _total(norm, tile)


def _bump(norm: str, rows: int, columns: int) -> Tensor:
    """Return nested rectangles (rows, columns) of size 1 that fall off from the middle."""
    bump = torch.zeros(rows, columns)
    middle, center = rows // 2, columns // 2
    for ring in range(max(middle, center) + 1):
        top, left, width = middle - ring, center - ring, 2 * ring + 1
        height = torch.ones(1) / torch.tensor([ring + 1.0]) ** FALL[norm]
        bump[max(top, 0) : min(top + width, rows), max(left, 0) : min(left + width, columns)] += height
    return bump / _total(norm, bump)


def _total(norm: str, tile: Tensor) -> Tensor:
    return (tile**2).sum().sqrt() if norm == "L2" else tile.abs().sum()


def _window_size(images: Tensor, norm: str) -> Tensor:
    """Return the norm of each channel (n, c, 1, 1)."""
    if norm == "L2":
        return (images**2).sum(dim=(-2, -1), keepdim=True).sqrt()
    return images.abs().sum(dim=(-2, -1), keepdim=True)


def _size(images: Tensor, norm: str) -> Tensor:
    """Return the norm of each image (n, 1, 1, 1)."""
    flat = images.flatten(1)
    size = (flat**2).sum(1).sqrt() if norm == "L2" else flat.abs().sum(1)
    return size.view(-1, 1, 1, 1)
