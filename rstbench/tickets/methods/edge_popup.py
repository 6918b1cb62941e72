"""Draw a ticket by edge-popup: learn which weights of a random network to keep, against an adversary.

Fu et al., "Drawing Robust Scratch Tickets", NeurIPS 2021: the scores of edge-popup are trained by
stochastic gradient descent on adversarial images; the weights never change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor, nn

from ...errors import BadRequest
from ...training.adversaries import Adversary
from ...training.epochs import Epoch, fit, kept_epoch
from ..allocation import allocate_globally
from ..mask import EdgePopup, register_scores
from ..ticket import Ticket
from .search import Search, require_elementwise_scores


def edge_popup(search: Search) -> tuple[Ticket, list[Epoch]]:
    """`rst`: train scores that begin at random; the largest stay.

    Returns the ticket (on the CPU) and its history; its facts name the layers whose masks are still those
    of the random start (`unmoved`). Raises BadRequest for a fraction outside (0, 1], ModelFault where the
    loss diverges.
    """
    return train_scores(search, search.random_scores())


@dataclass(frozen=True)
class Hydra:
    """`hydra`: the same training of scores that begin at the trained weights, sqrt(6 / fan in) w / max |w|.

    Source: Sehwag et al., "HYDRA: Pruning Adversarial Robust Neural Networks", NeurIPS 2020, and its code.
    """

    def check(self, search: Search) -> None:
        """Raise BadRequest where the weights are random ones, whose magnitudes say nothing."""
        require_elementwise_scores(search)
        if not search.recipe.origin:
            raise BadRequest("method hydra begins at trained weights; add --from checkpoint:FILE")

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        return train_scores(search, {name: _hydra_scores(search.weights[name]) for name in search.budgets})


def _hydra_scores(weight: Tensor) -> Tensor:
    return math.sqrt(6 / weight[0].numel()) * weight / weight.abs().max()


def train_scores(
    search: Search,
    scores: Mapping[str, Tensor],
    *,
    net: nn.Module | None = None,
    adversary: Adversary | None = None,
    extra: Sequence[nn.Parameter] = (),
) -> tuple[Ticket, list[Epoch]]:
    """Train scores that begin at these.

    net: the search's network, where hooks are on it; adversary: in place of the recipe's; extra: parameters
    trained beside the scores and dropped at the end. Returns and raises as `edge_popup`.
    """
    net = net or search.network()
    parametrizations = register_scores(net, search.budgets, scores)
    before_step = partial(_before_step, search, parametrizations)
    before_step(Generator())
    initial_masks = _masks(parametrizations)
    for parameter in extra:
        parameter.requires_grad_(True)
    history = fit(
        net,
        [*(parametrization.scores for parametrization in parametrizations.values()), *extra],
        search.split,
        search.recipe,
        search.on_epoch,
        before_step=before_step,
        adversary=adversary,
        resume_file=search.resume_file,
    )
    before_step(Generator())
    masks = _masks(parametrizations)
    unmoved = [n for n, mask in masks.items() if mask.equal(initial_masks[n]) and not mask.all()]
    kept = kept_epoch(history, search.recipe)
    return search.ticket(net, masks, kept, unmoved=unmoved), history


def _masks(parametrizations: Mapping[str, EdgePopup]) -> dict[str, Tensor]:
    """Return the masks of the weights by the present scores."""
    return {name: p.selector.weight_mask(p.scores) for name, p in parametrizations.items()}


def _before_step(search: Search, parametrizations: Mapping[str, EdgePopup], generator: Generator) -> None:
    """Allocate all kept units to the layers anew by the present scores, with allocation 'global'.

    Scores are divided by the standard deviation they began with, which differs by layer (see
    `random_scores`).
    """
    if search.recipe.allocation != "global":
        return
    scores = {name: p.scores.detach() for name, p in parametrizations.items()}
    fan_in = {name: score[0].numel() for name, score in scores.items()}
    scaled = {n: score * (math.sqrt(3 * fan_in[n]) if fan_in[n] > 1 else 1.0) for n, score in scores.items()}
    budgets = allocate_globally(search.budgets, scaled)
    for name, parametrization in parametrizations.items():
        parametrization.selector = budgets[name]
