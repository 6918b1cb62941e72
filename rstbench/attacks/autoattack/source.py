"""The attacked model as the stages of AutoAttack ask it: logits, gradients, and who is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mixture import Model

LossAtLogits = Callable[[Tensor], tuple[Tensor, Tensor]]  # to losses, and their gradients


@dataclass(frozen=True)
class Source:
    """A model under attack.

    logits_of: what is attacked; exact: the exact model where `logits_of` is a faster copy. With one the
    attack may be fast: no image has broken before the exact model gets it wrong too. members: of a switch,
    whose mean is attacked; an image that all of them get wrong has no accuracy left to take.
    """

    logits_of: Model
    exact: Model | None = None
    members: Sequence[Model] = ()

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) without gradients."""
        with torch.no_grad():
            return self.logits_of(x)

    def gradient(self, x: Tensor, loss: LossAtLogits) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits (n, classes), the losses (n,) and their gradients for the images, x's shape."""
        if torch.compiler.is_compiling():  # a captured graph takes this form alone
            logits, pull = torch.func.vjp(self.logits_of, x)[:2]
            values, slope = loss(logits)
            return logits, values, pull(slope)[0]
        images = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits_of(images)
        values, slope = loss(logits.detach())
        (gradient,) = torch.autograd.grad(logits, images, slope)
        return logits.detach(), values, gradient.contiguous()  # may be a view that repeats one value

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (n, classes) and their gradients for the images (n, classes, c, h, w)."""
        images = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits_of(images)
        one_each = torch.eye(logits.shape[1], device=x.device, dtype=logits.dtype)
        gradients = [
            torch.autograd.grad(logits, images, row.expand_as(logits), retain_graph=True)[0]
            for row in one_each
        ]
        return logits.detach(), torch.stack(gradients, dim=1)

    def are_wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Return which of the images the model that counts gets wrong, bool (n,)."""
        with torch.no_grad():
            found = wrong((self.exact or self.logits_of)(x), y)
            left = (~found).nonzero()[:, 0] if self.members else ()
            if len(left):
                asked = [wrong(member(x[left]), y[left]) for member in self.members]
                found[left] = torch.stack(asked).all(0)
            return found


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Return which rows do not answer y, bool (n,). Logits that are not finite are no answer."""
    return (logits.argmax(1) != y) | ~logits.sum(1).isfinite()


def put(where: Tensor, mask: Tensor, new: Tensor) -> None:
    """Write the rows of `new` that a mask (n,) marks into `where`, in place.

    On the CPU only these rows are moved; elsewhere, and while a graph is captured, nothing waits for the
    mask.
    """
    if where.is_cuda or torch.compiler.is_compiling():
        where.copy_(torch.where(per_image(mask, where), new, where))
        return
    rows = mask.nonzero()[:, 0]
    if len(rows):
        where[rows] = new[rows]


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Return values (n,) in a shape that broadcasts over images (n, ...)."""
    return values.view(-1, *[1] * (images.dim() - 1))
