"""Drawing a ticket: learning which weights of a random network to keep, against an adversary.

Fu et al., "Drawing Robust Scratch Tickets", NeurIPS 2021: the scores of edge-popup are trained by
stochastic gradient descent on adversarial images; the weights never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from .fit import Epoch, Lesson, Watch, fit, kept_epoch
from .mask import Popup, parse_remaining, put_scores, random_scores
from .networks import NetworkSpec, build, prunable
from .pattern import Slot, plan, share_out
from .recipe import Recipe
from .ticket import Ticket, found_ticket, scaled_weights

# Scores, then data order, then noise: the streams of one seed must not coincide.
SCORES = 1_000_003


def edge_popup(
    spec: NetworkSpec,
    weights: Mapping[str, Tensor],
    remaining: str,
    lesson: Lesson,
    recipe: Recipe,
    *,
    device: str | torch.device = "cpu",
    watch: Watch = lambda epoch: None,
    store_weights: bool = True,
    start: Mapping[str, Tensor] | None = None,
    diary: Path | None = None,
) -> tuple[Ticket, list[Epoch]]:
    """One ticket that keeps the fraction `remaining` of each layer of the network with `weights`.

    weights: by state-dict name, as from `random_weights`; left untouched, bit by bit. start: norm
    statistics and affine parameters to begin from, where the weights are trained ones. diary: see `fit`.
    Returns the ticket (on the CPU) and its history; its facts name the layers whose masks are still those
    of the random start (`unmoved`). Raises BadRequest for a fraction outside (0, 1],
    ModelFault where the loss diverges.
    """
    net = build(spec)
    used = scaled_weights(weights, recipe, remaining)
    net.load_state_dict({**net.state_dict(), **(start or {}), **used})
    slots = plan({name: w.shape for name, w in prunable(net).items()}, parse_remaining(remaining), recipe)
    net.to(device)
    generator = Generator().manual_seed(recipe.seed + SCORES)
    popups = put_scores(net, slots, {n: random_scores(slot.units, generator) for n, slot in slots.items()})
    allot = partial(_allot, popups, slots) if recipe.allocation == "global" else _nothing
    learnt = [popup.scores for popup in popups.values()]
    allot()
    begun = _masks(popups)
    history = fit(net, learnt, lesson, recipe, watch, before_step=allot, diary=diary)
    allot()
    masks = _masks(popups)
    facts = {"kept_epoch": asdict(kept_epoch(history, recipe)), "on_test": lesson.on_test}
    facts["unmoved"] = [name for name, mask in masks.items() if mask.equal(begun[name]) and not mask.all()]
    ticket = found_ticket(spec, net, weights, masks, remaining, recipe, facts, store_weights=store_weights)
    return ticket, history


def _masks(popups: Mapping[str, Popup]) -> dict[str, Tensor]:
    """The masks of the weights by the scores as they are now."""
    return {name: popup.selector.weight_mask(popup.scores) for name, popup in popups.items()}


def _allot(popups: Mapping[str, Popup], slots: Mapping[str, Slot]) -> None:
    """Shares all kept units among the layers anew, by the scores as they are now."""
    shares = share_out(slots, {name: popup.scores for name, popup in popups.items()})
    for name, popup in popups.items():
        popup.selector = shares[name]


def _nothing() -> None:
    pass
