"""Whether a copy is the same function as its module, on images and noise in several batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import one_line

AGREE = 1e-4  # largest difference of logits, relative to the largest logit, for a copy to be used
AGREE_COARSE = 5e-2  # the same for one that computes in bfloat16
# Differences of the gradient by the images, by its norm: rounding moves what lies at the kink of a ReLU.
GRADIENT_AGREE, GRADIENT_AGREE_COARSE = 5e-2, 0.3


class NotCopied(Exception):
    """Why a module is crafted against as it is, for a person to read."""


@dataclass(frozen=True)
class Answers:
    """What a module answers, for its copies to be compared with.

    batches: images, then noise in batches of other sizes; logits: of each; direction: of the logits, in which
    `gradient` by the first batch was taken, None where the module has none.
    """

    batches: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    direction: Tensor
    gradient: Tensor | None


def answers(module: nn.Module, x: Tensor) -> Answers:
    """Return what a frozen module in eval mode answers on images x (n, c, h, w), n > 0, and on noise.

    Raises NotCopied where a copy could not stand for it: its logits are not finite or change from call to
    call, or it writes into what it is given. The global generators are left as they were.
    """
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(x.shape, generator=generator).to(x)  # attacks leave the data
    batches = x, noise[: (len(x) + 1) // 2], torch.cat([noise[:1], x[:1]])[: 1 if len(x) > 1 else 2]
    with _generators_kept(x.device):
        logits = tuple(logits_of(module, batch) for batch in batches)
        if not all(bool(each.isfinite().all()) for each in logits):
            raise NotCopied("its logits are not finite")
        for batch, first in zip(batches, logits, strict=True):
            if not same_logits(first, logits_of(module, batch), AGREE):
                raise NotCopied("its logits change from call to call")
        direction = torch.randn(logits[0].shape, generator=generator).to(logits[0])
        gradient = gradient_of(module, x, direction)
    return Answers(batches, logits, direction, gradient)


def agrees(copy: nn.Module, exact: Answers, *, coarse: bool = False) -> bool:
    """Whether a copy's logits and gradients are the module's up to rounding; coarse: of bfloat16."""
    most, most_gradient = (AGREE_COARSE, GRADIENT_AGREE_COARSE) if coarse else (AGREE, GRADIENT_AGREE)
    try:
        with _generators_kept(exact.batches[0].device):
            for batch, logits in zip(exact.batches, exact.logits, strict=True):
                if not same_logits(logits, logits_of(copy, batch), most, argmax=not coarse):
                    return False
            gradient, other = exact.gradient, gradient_of(copy, exact.batches[0], exact.direction)
    except Exception:  # of a user's code, traced; or of a kernel that is missing
        return False
    if gradient is None or other is None:
        return gradient is other
    return bool((gradient - other).norm() <= most_gradient * gradient.norm())


def same_logits(exact: Tensor, other: Tensor, most: float, *, argmax: bool = True) -> bool:
    """Whether logits differ by at most `most` of the largest, and tell the same classes; never for NaN."""
    if exact.shape != other.shape or exact.dtype != other.dtype:
        return False
    close = bool((exact - other).abs().max() <= most * exact.abs().max())
    return close and (not argmax or exact.argmax(1).equal(other.argmax(1)))


def logits_of(module: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of images x (n, c, h, w), without a graph.

    Raises NotCopied where the module fails, returns anything else, or writes into x.
    """
    given = x.clone()
    try:
        with torch.no_grad():
            logits = module(given)
    except (Exception, SystemExit) as error:  # of a user's code
        raise NotCopied(f"it fails on {len(x)} images: {one_line(error, 100)}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise NotCopied("it returns no logits (n, classes)")
    if not given.equal(x):
        raise NotCopied("it writes into its input")
    return logits.clone()


def gradient_of(module: nn.Module, x: Tensor, direction: Tensor) -> Tensor | None:
    """Return the gradient by x of logits times direction, None where there is none."""
    x = x.clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            return torch.autograd.grad(module(x), x, direction, allow_unused=True)[0]
    except Exception:  # a module that cuts its graph, or of a user's code
        return None


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
