"""The true robust accuracy of a liar that changes the function of its network: under an attack made for it.

Sources: Athalye et al., ICML 2018: the expectation over transformations (EOT), the backward pass of a
differentiable approximation (BPDA).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

import rstbench
from rstbench.attacks.objective import expand_as_batch, margin

RESTARTS, STEPS = 5, 40
DRAWS, DRAWS_AT_LAST = 10, 100  # of a random model, in each step and for its accuracy


def adaptive_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, threat: rstbench.Threat, *, slope_of: nn.Module | None, draws: int
) -> float:
    """Return the expected accuracy on the worst images that PGD on the margin finds.

    slope_of: the network whose gradient stands for the model's, None for its own; draws: of a random model
    that each step averages.
    """
    generator = Generator().manual_seed(0)
    worst, least = x.clone(), torch.full((len(x),), torch.inf)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(RESTARTS):
            adv = threat.sample(x, generator)
            for _ in range(STEPS + 1):
                images = adv.clone().requires_grad_()
                logits = torch.stack([_logits(model, slope_of, images) for _ in range(draws)])
                margins = torch.stack([margin(each, y) for each in logits])
                (gradient,) = torch.autograd.grad(margins.mean(0).sum(), images)
                right = (margins.detach() < 0).float().mean(0)
                worst = torch.where(expand_as_batch(right < least, x), adv, worst)
                least = torch.minimum(least, right)
                adv = threat.ascend(x, adv, gradient, float(threat.eps) / 8)
        with torch.no_grad():
            right = [margin(model(worst), y) < 0 for _ in range(DRAWS_AT_LAST if draws > 1 else 1)]
    return float(torch.stack(right).float().mean())


def _logits(model: nn.Module, slope_of: nn.Module | None, images: Tensor) -> Tensor:
    logits = model(images)
    if slope_of is None:
        return logits
    approximate = slope_of(images)
    return logits.detach() + approximate - approximate.detach()
