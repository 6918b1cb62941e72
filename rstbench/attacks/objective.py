"""The objective of gradient attacks: a loss of each image, of a model or of the exact mixture of a switch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .mixture import Model, members_of

LOSSES = ("ce", "margin")
MEANS = ("loss", "probability", "logits")


@dataclass(frozen=True)
class LossEvaluation:
    """An objective at some images.

    loss: (n,); wrong: whether every member is wrong, (n,); accuracy: expected over the members, (n,);
    gradient: of the loss, zero where none was asked for.
    """

    loss: Tensor
    wrong: Tensor
    accuracy: Tensor
    gradient: Tensor

    def has_zero_gradient(self) -> bool:
        """Return whether the gradient vanishes at some image."""
        return bool((self.gradient.flatten(1).abs().amax(1) == 0).any())


@dataclass(frozen=True)
class Objective:
    """The loss to maximise.

    loss: 'ce' (cross-entropy) or 'margin' (largest other logit minus the true one); mean, of a switch: over
    its members' losses (the exact expected loss), or the loss of their mean 'probability' or mean 'logits'.
    Raises ValueError for other names.
    """

    model: Any
    y: Tensor
    loss: str = "ce"
    mean: str = "loss"

    def __post_init__(self) -> None:
        check_names(self.loss, self.mean)

    def __call__(self, adv: Tensor, *, gradient: bool = True) -> LossEvaluation:
        """Evaluate images (n, c, h, w), one member's graph at a time: memory does not grow with a switch."""
        pairs = members_of(self.model)
        if self.mean == "loss" or len(pairs) == 1:
            terms = [self._member(member, adv, gradient, weight) for weight, member in pairs]
            loss = _total(term[1] for term in terms)
        else:
            # The gradient of the mean's loss in each member's logits comes first, then that of the logits.
            with torch.no_grad():
                logits = torch.stack([member(adv) for _, member in pairs]).requires_grad_()
            with torch.enable_grad():
                combined = self._loss(self._combined(logits, [weight for weight, _ in pairs]))
                (slopes,) = torch.autograd.grad(combined.sum(), logits)
            loss = combined.detach()
            terms = [
                self._member(member, adv, gradient, slope)
                for (_, member), slope in zip(pairs, slopes, strict=True)
            ]
        correct = [term[0] for term in terms]
        return LossEvaluation(
            # A model that answers NaN has been broken: that image must not be lost from sight.
            loss.nan_to_num(nan=torch.inf),
            ~torch.stack(correct).any(0),
            _total(weight * right for (weight, _), right in zip(pairs, correct, strict=True)),
            _total(term[2] for term in terms).nan_to_num(nan=0.0),
        )

    def _member(
        self, member: Model, adv: Tensor, gradient: bool, factor: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (correct (n,), weighted loss (n,), gradient) of one member.

        factor: its weight, or the gradient of the mean's loss in its logits.
        """
        adv = adv.detach().requires_grad_(gradient)
        slope = torch.zeros_like(adv)
        with torch.set_grad_enabled(gradient):
            logits = member(adv)
            weighted = self._loss(logits) * factor if isinstance(factor, float) else (logits * factor).sum(1)
            if gradient:
                slope = torch.autograd.grad(weighted.sum(), adv)[0]
        return is_correct(logits, self.y), weighted.detach(), slope

    def _combined(self, logits: Tensor, weights: list[float]) -> Tensor:
        """Return one set of logits for the mixture; logits: (members, n, classes)."""
        shares = torch.tensor(weights, device=logits.device).view(-1, 1, 1)
        if self.mean == "logits":
            return (shares * logits).sum(0)
        return (logits.log_softmax(2) + shares.log()).logsumexp(0)

    def _loss(self, logits: Tensor) -> Tensor:
        if self.loss == "ce":
            return cross_entropy(logits, self.y, reduction="none")
        return margin(logits, self.y)


def _total(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum, added from the first to the last."""
    return reduce(Tensor.add, parts)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the true one, (n,): positive where the model is wrong."""
    true = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


def is_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return on which images the largest logit is the label's and all logits are finite, (n,)."""
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


def check_names(loss: str, mean: str) -> None:
    """Raise ValueError for a loss or a mean that is not known."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if mean not in MEANS:
        raise ValueError(f"mean must be one of {', '.join(MEANS)}, got {mean!r}")


def expand_as_batch(mask: Tensor, x: Tensor) -> Tensor:
    """Reshape one value an image, (n,), to broadcast over images (n, …)."""
    return mask.view(-1, *[1] * (x.dim() - 1))
