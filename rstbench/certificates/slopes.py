"""Lower slopes of ReLUs, optimised for each margin by gradient ascent (Xu et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .backward import Knowledge, propagate
from .linear_bounds import chunks, margin_rows
from .relaxations import Relaxation, ReLULines

# Adam's step at first, and its decay after each step. Slopes lie in [0, 1].
STEP, DECAY = 0.25, 0.95


def optimised_margins(known: Knowledge, label: int, steps: int) -> Tensor:
    """Return lower bounds of each margin (classes − 1,) of one image, the best over all steps.

    Any slopes in [0, 1] are sound. The bounds of the layers before stay as they are.
    """
    rows = margin_rows(label, known.network.nodes[-1].shape[0], known.region.x.device)
    parts = chunks(known.network, rows.shape[1], rows.device)
    return torch.cat([_ascend(known, rows[:, part], steps) for part in parts])


def _ascend(known: Knowledge, rows: Tensor, steps: int) -> Tensor:
    last = len(known.network.nodes) - 1
    lines = {place: line for place, line in known.relaxations.items() if isinstance(line, ReLULines)}
    # Each row has slopes of its own.
    slopes = {p: line.slope.repeat(1, rows.shape[1]).requires_grad_() for p, line in lines.items()}
    best = rows.new_full((rows.shape[1],), -torch.inf)
    if not sum(slope.numel() for slope in slopes.values()):
        return best
    optimiser = torch.optim.Adam(list(slopes.values()), lr=STEP, maximize=True)
    for step in range(steps + 1):
        relaxations: dict[int, Relaxation] = dict(known.relaxations)
        relaxations.update({place: replace(line, slope=slopes[place]) for place, line in lines.items()})
        with torch.enable_grad():
            margins = propagate(known, last, rows, relaxations=relaxations)
            total = margins.sum()
        best = best.maximum(margins.detach())
        if step == steps or not margins.requires_grad:
            break
        gradients = torch.autograd.grad(total, list(slopes.values()), allow_unused=True)
        for slope, gradient in zip(slopes.values(), gradients, strict=True):
            slope.grad = gradient
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] *= DECAY
        for slope in slopes.values():
            slope.clamp_(0, 1)
    return best
