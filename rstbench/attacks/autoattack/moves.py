"""The steps of APGD in the three norms, as its authors take them.

All functions take and return images (n, c, h, w); eps and size are in units of the norm. The order of the
arithmetic is that of the published code, so that both give the same bits. Source: Croce and Hein, ICML 2020,
section 3, and ICML 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .l1_ball import correction
from .source import per_image

MOMENTUM = 0.75  # share of the new step; the rest is that of the last one
TINY = 1e-12
SAMPLERS: Mapping[str, Callable[..., Tensor]] = {"Linf": torch.rand, "L2": torch.randn, "L1": torch.randn}


def random_start(x: Tensor, noise: Tensor, norm: str, eps: float) -> Tensor:
    """Return images on the sphere around x; noise: of the sampler of the norm."""
    if norm == "L1":
        return x + noise + correction(x, noise, eps)
    direction = 2 * noise - 1 if norm == "Linf" else noise
    length = direction.flatten(1).abs().amax(1) if norm == "Linf" else _l2(direction)
    return x + eps * (direction / (per_image(length, x) + TINY))


def linf_step(
    low: Tensor,
    high: Tensor,
    iterate: Tensor,
    previous: Tensor,
    gradient: Tensor,
    size: Tensor,
    share: float,
) -> Tensor:
    """Return the next iterate: a step of `size` (n,), of which `share` is taken, with momentum.

    low, high: the walls of ball and box. A gradient that is not a number moves nothing.
    """
    moved = gradient.sign().mul_(per_image(size, low)).add_(iterate).clamp_(low, high)
    moved.sub_(iterate).mul_(share).add_(iterate)
    if share < 1:
        moved.add_((iterate - previous).mul_(1 - share))
    return moved.clamp_(low, high)


def l2_step(
    x: Tensor, iterate: Tensor, previous: Tensor, gradient: Tensor, size: Tensor, share: float, eps: float
) -> Tensor:
    """Return the next iterate, as `linf_step` with x (n, c, h, w) in place of the walls."""
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    unit = gradient / (per_image(_l2(gradient), x) + TINY)
    moved = _into_l2(x, iterate + per_image(size, x) * unit, eps)
    moved = iterate + (moved - iterate) * share + (iterate - previous) * (1 - share)
    return _into_l2(x, moved, eps)


def l1_step(
    x: Tensor, iterate: Tensor, gradient: Tensor, size: Tensor, support: Tensor, eps: float
) -> Tensor:
    """Return the next iterate: a step along the signs of the `support` (n,) share of largest gradients."""
    flat = gradient.nan_to_num(0.0, 0.0, 0.0).flatten(1)
    magnitude, pixels = flat.abs(), flat.shape[1]
    least = ((1.0 - support) * pixels).clamp(min=0, max=pixels - 1).long()
    threshold = magnitude.sort(dim=1)[0].gather(1, least[:, None])
    signs = (flat * (magnitude >= threshold).float()).sign().view_as(gradient)
    count = per_image(signs.flatten(1).abs().sum(1), x)
    delta = iterate + per_image(size, x) * signs / (count + 1e-10) - x
    return x + delta + correction(x, delta, eps)


def _into_l2(x: Tensor, moved: Tensor, eps: float) -> Tensor:
    delta = moved - x
    length = per_image(_l2(delta), x)
    return (x + delta / (length + TINY) * length.clamp_max(eps)).clamp(0.0, 1.0)


def _l2(images: Tensor) -> Tensor:
    return (images**2).flatten(1).sum(1).sqrt()
