"""Drawing a ticket: learning which weights of a random network to keep, against an adversary.

Fu et al., "Drawing Robust Scratch Tickets", NeurIPS 2021: the scores of edge-popup are trained by
stochastic gradient descent on adversarial images; the weights never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Generator, Tensor

from .fit import Epoch, Lesson, Watch, fit, kept_epoch
from .init import weights_digest
from .mask import hard_mask, kept_count, parse_remaining, put_scores
from .networks import NetworkSpec, build, prunable
from .recipe import Recipe
from .ticket import Ticket, keep_weights

# Scores, then data order, then noise: the streams of one seed must not coincide.
_SCORES = 1_000_003


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
) -> tuple[Ticket, list[Epoch]]:
    """One ticket that keeps the fraction `remaining` of each layer of the network with `weights`.

    weights: by state-dict name, as from `random_weights`; left untouched, bit by bit.
    Returns the ticket (on the CPU) and its history. Raises BadRequest for a fraction outside (0, 1],
    ModelFault where the loss diverges.
    """
    fraction = parse_remaining(remaining)
    net = build(spec)
    net.load_state_dict({**net.state_dict(), **{name: w.detach().clone() for name, w in weights.items()}})
    net.to(device)
    kept = {name: kept_count(fraction, w.numel(), recipe.kept_count) for name, w in prunable(net).items()}
    scores = put_scores(net, kept, Generator().manual_seed(recipe.seed + _SCORES))
    history = fit(net, list(scores.values()), lesson, recipe, watch)
    ticket = Ticket(
        recipe=recipe,
        spec=spec,
        remaining=remaining,
        masks={name: hard_mask(score, kept[name]).cpu() for name, score in scores.items()},
        buffers={name: buffer.detach().cpu().clone() for name, buffer in net.named_buffers()},
        random_digest=weights_digest(weights),
        weights=keep_weights(recipe.init, weights, store=store_weights),
        facts={"kept_epoch": asdict(kept_epoch(history, recipe)), "on_test": lesson.on_test},
    )
    return ticket, history
