"""Compare the gradients that a model gives with the slopes of its logits."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Generator, Tensor, nn

from ..models.agreement import gradient_of

IMAGES, DIRECTIONS = 4, 2  # that are compared
STEPS = (1e-3, 1e-4, 1e-2)  # in pixels: shorter ones where ReLUs bend the first, longer ones where it rounds
WRONG = 0.5  # a gradient that is off by more of its length leads an attack astray
ROUNDING, ROUNDING_COARSE = 1e-5, 3e-2  # of the logits' norm: what may be nothing else


def has_shattered_gradient(module: nn.Module, x: Tensor, *, coarse: bool) -> bool:
    """Return whether gradients at a few of the images x (n, c, h, w) are other than the slopes of the logits.

    The slopes are central differences along random directions; where neither leads anywhere, longer ones
    count. Where images have even areas, max pools are tied and ReLUs at their bend, and a gradient is no
    slope: so it must differ at images with a little noise too. coarse: whether logits are rounded as on a GPU
    or in half precision. False where the model lets no gradient through, or fails on such images. Source:
    Athalye et al., ICML 2018 ("shattered gradients").
    """
    margin, rounding = STEPS[-1], ROUNDING_COARSE if coarse else ROUNDING
    images = 2 * margin + (1 - 4 * margin) * x[:IMAGES]  # so that neither steps nor noise leave [0, 1]
    noise = torch.rand(images.shape, generator=Generator().manual_seed(1)).to(images) * 2 - 1
    with suppress(Exception, SystemExit):  # of a user's code
        return all(_differs(module, each, rounding) for each in (images, images + margin * noise))
    return False


def _differs(module: nn.Module, images: Tensor, rounding: float) -> bool:
    generator = Generator().manual_seed(0)
    signs = torch.randint(0, 2, (DIRECTIONS, *images.shape), generator=generator).to(images) * 2 - 1
    with torch.no_grad():
        logits = module(images.clone()).float()
    weights = torch.randn(logits.shape, generator=generator).to(logits)
    gradient = gradient_of(module, images, weights)
    if gradient is None or not bool(logits.isfinite().all()):
        return False
    if not bool(gradient.isfinite().all()):
        return True
    told, size = (gradient * signs).flatten(2).sum(2), logits.norm() * weights.square().mean().sqrt()
    shattered = False
    for step in STEPS:
        with torch.no_grad():
            both = module(torch.cat([images + step * signs, images - step * signs]).flatten(0, 1)).float()
        ahead, behind = (both * weights.repeat(2 * DIRECTIONS, 1)).sum(1).view(2, *told.shape)
        slopes = (ahead - behind) / (2 * step)
        error, length = (slopes - told).norm(), torch.maximum(slopes.norm(), told.norm())
        if length > 0 and error <= WRONG * length:
            return False
        shattered |= bool(2 * step * error > rounding * size)
    return shattered
