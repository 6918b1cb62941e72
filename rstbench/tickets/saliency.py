"""Masks that no search learns. So far: drawn at random, the floor of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from .draw import SCORES
from .fit import Epoch, Lesson, Watch, batches, measured
from .mask import masked, parse_remaining, random_scores
from .networks import NetworkSpec, build, prunable
from .pattern import plan, share_out
from .recipe import Recipe
from .ticket import Ticket, found_ticket, scaled_weights


def random(
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
    """A ticket whose weights are chosen at random: the mask that a search with this seed begins at.

    Norm statistics come from `recipe.epochs` passes over the clean training images. Arguments as of
    `edge_popup`; the diary is not needed. Raises BadRequest for a fraction outside (0, 1].
    """
    net = build(spec)
    slots = plan({name: w.shape for name, w in prunable(net).items()}, parse_remaining(remaining), recipe)
    generator = Generator().manual_seed(recipe.seed + SCORES)
    scores = {name: random_scores(slot.units, generator) for name, slot in slots.items()}
    if recipe.allocation == "global":
        slots = share_out(slots, scores)
    masks = {name: slot.weight_mask(scores[name]) for name, slot in slots.items()}
    used = scaled_weights(weights, recipe, remaining)
    used |= {name: masked(used[name], mask) for name, mask in masks.items()}
    net.load_state_dict({**net.state_dict(), **(start or {}), **used})
    net.requires_grad_(False).to(device)
    history = []
    for epoch in range(1, recipe.epochs + 1):
        loss = _settle_norm(net, lesson, recipe, Generator().manual_seed(recipe.seed + epoch))
        history.append(Epoch(epoch, loss, *measured(net, lesson.select, recipe), lr=0.0))
        watch(history[-1])
    facts = {"kept_epoch": asdict(history[-1]), "on_test": lesson.on_test}
    ticket = found_ticket(spec, net, weights, masks, remaining, recipe, facts, store_weights=store_weights)
    return ticket, history


@torch.no_grad()
def _settle_norm(net: nn.Module, lesson: Lesson, recipe: Recipe, generator: Generator) -> float:
    """One pass in train mode, which moves norm statistics and nothing else; returns the mean loss."""
    net.train()
    device = next(net.parameters()).device
    losses = [
        cross_entropy(net(x.to(device)), y.to(device)) for x, y in batches(lesson.train, recipe, generator)
    ]
    return float(torch.stack(losses).mean())
