"""The published step of the search, re-stated, and ours, on one network.

The published step (Fu et al. 2021) sorts every layer's scores again at each of its eight forward passes,
and its attack calls `loss.backward()`, which fills the gradients of all scores seven times for nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.threat import Threat
from rstbench.tickets.allocation import LayerBudget, allocate
from rstbench.tickets.init import random_weights
from rstbench.tickets.mask import parse_remaining, random_scores, register_scores, straight_through
from rstbench.tickets.seeds import SCORES
from rstbench.training.adversaries import Batch, InnerPGD
from rstbench.training.recipe import Recipe

STEPS = 7
Step = Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor], None]


class Resorted(nn.Module):
    """The mask by a full sort of |scores|, computed anew at every use."""

    def __init__(self, scores: Tensor, budget: LayerBudget) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.dropped = budget.weights - budget.kept

    def forward(self, weight: Tensor) -> Tensor:
        order = self.scores.detach().abs().flatten().argsort()
        mask = torch.ones_like(order, dtype=torch.bool)
        mask[order[: self.dropped]] = False
        return weight * straight_through(mask.view_as(self.scores), self.scores)


def network(
    spec: NetworkSpec, remaining: str, published: bool, device: str = "cpu", seed: int = 0
) -> tuple[nn.Module, list[nn.Parameter]]:
    """The network with scores on it, and the scores: the same for both sides."""
    net = build(spec)
    weights = random_weights(prunable(net), "signed_constant", seed)
    net.load_state_dict({**net.state_dict(), **weights})
    shapes = {key: weight.shape for key, weight in weights.items()}
    budgets = allocate(shapes, parse_remaining(remaining), Recipe(network=spec.name))
    generator = Generator().manual_seed(seed + SCORES)
    scores = {key: random_scores(budget.score_shape, generator) for key, budget in budgets.items()}
    if not published:
        popups = register_scores(net, budgets, scores)
        return net.to(device).train(), [popup.scores for popup in popups.values()]
    net.requires_grad_(False)
    for key, budget in budgets.items():
        layer = net.get_submodule(key.removesuffix(".weight"))
        parametrize.register_parametrization(layer, "weight", Resorted(scores[key], budget))
    return net.to(device).train(), [p for p in net.parameters() if p.requires_grad]


def published_step(threat: Threat) -> Step:
    """Attack by `backward`, no cache, then the step on the scores."""
    eps = float(threat.eps)

    def step(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        delta = torch.empty_like(x).uniform_(-eps, eps)
        delta = ((x + delta).clamp(0, 1) - x).requires_grad_(True)
        for _ in range(STEPS):
            cross_entropy(net(x + delta), y).backward()
            moved = (delta + eps / 4 * delta.grad.sign()).detach().clamp(-eps, eps)
            delta = ((x + moved).clamp(0, 1) - x).requires_grad_(True)
        optimiser.zero_grad()
        cross_entropy(net(x + delta.detach()), y).backward()
        optimiser.step()

    return step


def our_step(threat: Threat, seed: int = 0) -> Step:
    """As in `rstbench.training.epochs`: masks once, gradients of scores once."""
    generator = Generator().manual_seed(seed)

    def step(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        scores = optimiser.param_groups[0]["params"]
        batch = Batch(net, x, y, threat, generator, cross_entropy)
        with parametrize.cached():
            (loss,) = InnerPGD(STEPS).losses(batch)
            gradients = torch.autograd.grad(loss, scores)
        for parameter, gradient in zip(scores, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()

    return step
