"""Drawing a ticket: learning which weights of a random network to keep, against an adversary.

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
from ..allocation import LayerBudget, share_out
from ..mask import Popup, put_scores
from ..ticket import Ticket
from .search import Search, single_weights


def edge_popup(search: Search) -> tuple[Ticket, list[Epoch]]:
    """Scores begin at random and are learnt; the largest stay.

    Returns the ticket (on the CPU) and its history; its facts name the layers whose masks are still those
    of the random start (`unmoved`). Raises BadRequest for a fraction outside (0, 1], ModelFault where the
    loss diverges.
    """
    return learnt_scores(search, search.random_scores())


@dataclass(frozen=True)
class Hydra:
    """`hydra`: the same search with scores that begin at the trained weights, sqrt(6 / fan in) w / max |w|.

    Source: Sehwag et al., "HYDRA: Pruning Adversarial Robust Neural Networks", NeurIPS 2020, and its code.
    """

    def check(self, search: Search) -> None:
        """Raises BadRequest where the weights are random ones, whose magnitudes say nothing."""
        single_weights(search)
        if not search.recipe.origin:
            raise BadRequest("method hydra begins at trained weights; add --from checkpoint:FILE")

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        return learnt_scores(search, {name: _hydra_scores(search.weights[name]) for name in search.slots})


def _hydra_scores(weight: Tensor) -> Tensor:
    return math.sqrt(6 / weight[0].numel()) * weight / weight.abs().max()


def learnt_scores(
    search: Search,
    scores: Mapping[str, Tensor],
    *,
    net: nn.Module | None = None,
    adversary: Adversary | None = None,
    more: Sequence[nn.Parameter] = (),
) -> tuple[Ticket, list[Epoch]]:
    """Learns scores that begin at these.

    net: the search's network, where more hangs on it; adversary: in place of the recipe's; more: parameters
    that are learnt beside the scores and forgotten at the end. Returns and raises as `edge_popup`.
    """
    net, slots = net or search.network(), search.slots
    popups = put_scores(net, slots, scores)
    allot = partial(_allot, popups, slots) if search.recipe.allocation == "global" else _nothing
    allot(Generator())
    begun = _masks(popups)
    for parameter in more:
        parameter.requires_grad_(True)
    history = fit(
        net,
        [*(popup.scores for popup in popups.values()), *more],
        search.lesson,
        search.recipe,
        search.watch,
        before_step=allot,
        adversary=adversary,
        diary=search.diary,
    )
    allot(Generator())
    masks = _masks(popups)
    unmoved = [name for name, mask in masks.items() if mask.equal(begun[name]) and not mask.all()]
    kept = kept_epoch(history, search.recipe)
    return search.ticket(net, masks, kept, unmoved=unmoved), history


def _masks(popups: Mapping[str, Popup]) -> dict[str, Tensor]:
    """The masks of the weights by the scores as they are now."""
    return {name: popup.selector.weight_mask(popup.scores) for name, popup in popups.items()}


def _allot(popups: Mapping[str, Popup], slots: Mapping[str, LayerBudget], generator: Generator) -> None:
    """Shares all kept units among the layers anew, by the scores as they are now.

    Scores are compared in units of their start's standard deviation, which differs by layer (see
    `random_scores`).
    """
    scores = {name: popup.scores.detach() for name, popup in popups.items()}
    inputs = {name: score[0].numel() for name, score in scores.items()}
    scaled = {n: score * (math.sqrt(3 * inputs[n]) if inputs[n] > 1 else 1.0) for n, score in scores.items()}
    shares = share_out(slots, scaled)
    for name, popup in popups.items():
        popup.selector = shares[name]


def _nothing(generator: Generator) -> None:
    pass
