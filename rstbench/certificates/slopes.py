"""Lower slopes of ReLUs, optimised for each margin by gradient ascent (Xu et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .backward import Region, propagate
from .linear_bounds import LinearBounds, chunks, margin_rows
from .network import Network
from .relaxations import Relaxation, ReLULines

# Adam's step at first and its decay after each step. Slopes lie in [0, 1].
STEP, DECAY = 0.25, 0.95


def optimised_margins(network: Network, region: Region, known: LinearBounds, y: Tensor, steps: int) -> Tensor:
    """Return lower bounds of each margin (n, classes − 1), the best over all steps.

    Any slopes in [0, 1] are sound. The bounds of the layers before stay as they are.
    """
    rows, image = margin_rows(y, network.nodes[-1].shape[0])
    found = [
        _ascend(network, region, known, rows[part], image[part], steps) for part in chunks(network, image)
    ]
    return torch.cat(found).view(len(y), -1) if found else rows.new_zeros(len(y), 0)


def _ascend(
    network: Network, region: Region, known: LinearBounds, rows: Tensor, image: Tensor, steps: int
) -> Tensor:
    last = len(network.nodes) - 1
    lines = {place: line for place, line in known.relaxations.items() if isinstance(line, ReLULines)}
    slopes = {place: line.slope[image].requires_grad_() for place, line in lines.items()}
    unstable = {place: (line.intercept != 0)[image] for place, line in lines.items()}
    best = torch.full((len(image),), -torch.inf, dtype=torch.float64, device=image.device)
    if not slopes:
        return best
    optimiser = torch.optim.Adam(list(slopes.values()), lr=STEP, maximize=True)
    for step in range(steps + 1):
        relaxations: dict[int, Relaxation] = dict(known.relaxations)
        for place, line in lines.items():
            relaxations[place] = replace(line, slope=slopes[place], by_row=True)
        with torch.enable_grad():
            margins = propagate(network, region, relaxations, known.bounds, {last: rows}, image)
            optimiser.zero_grad()
            margins.sum().backward()  # type: ignore[no-untyped-call]
        best = best.maximum(margins.detach())
        if step == steps:
            break
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] *= DECAY
        for place, slope in slopes.items():
            slope.copy_(torch.where(unstable[place], slope.clamp(0, 1), lines[place].slope[image]))
    return best
