"""The losses of APGD with their gradients for the logits, in closed form.

Each takes logits (n, classes), labels (n,) and target classes (n,), and returns the losses (n,) and their
gradients (n, classes). The arithmetic is ordered as automatic differentiation of the published losses orders
it, so that both give the same bits. Source: Croce and Hein, ICML 2020, section 4 and appendix A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
TINY = 1e-12  # keeps the DLR loss finite where logits are equal


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log p_y; its gradient is p - onehot(y)."""
    logs = logits.log_softmax(1)
    label = y[:, None]
    outer = torch.zeros_like(logits).scatter_(1, label, -1.0)
    # The gradient that automatic differentiation computes: `logs.exp()` rounds otherwise.
    slope = torch.ops.aten._log_softmax_backward_data(outer, logs, 1, logits.dtype)
    return -logs.gather(1, label)[:, 0], slope


def difference_of_logits_ratio(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return -(z_y - max of the others) / (z_1 - z_3), z_1 >= z_2 >= … the sorted logits."""
    ordered, classes = logits.sort(dim=1)
    first, second, third = classes[:, -1], classes[:, -2], classes[:, -3]
    rival = torch.where(first == y, second, first)
    scale = ordered[:, -1] - ordered[:, -3] + TINY
    return _ratio(logits, y, rival, scale, [(first, 1.0), (third, -1.0)])


def targeted_difference(logits: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return -(z_y - z_target) / (z_1 - (z_3 + z_4) / 2)."""
    ordered, classes = logits.sort(dim=1)
    scale = ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4]) + TINY
    weights = [(classes[:, -1], 1.0), (classes[:, -3], -0.5), (classes[:, -4], -0.5)]
    return _ratio(logits, y, target, scale, weights)


def _ratio(
    logits: Tensor, y: Tensor, rival: Tensor, scale: Tensor, weights: list[tuple[Tensor, float]]
) -> tuple[Tensor, Tensor]:
    """Return -(z_y - z_rival) / scale, scale being the weighted sum of logits, and its gradient."""
    gap = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, rival[:, None])[:, 0]
    loss = -gap / scale
    of_gap, of_scale = -(1 / scale), -(loss / scale)
    classes = torch.stack([y, rival, *(index for index, _ in weights)], dim=1)
    parts = torch.stack([of_gap, -of_gap, *(weight * of_scale for _, weight in weights)], dim=1)
    return loss, torch.zeros_like(logits).scatter_add_(1, classes, parts)


LOSSES: Mapping[str, Loss] = {
    "ce": cross_entropy,
    "dlr": difference_of_logits_ratio,
    "dlr-targeted": targeted_difference,
}
