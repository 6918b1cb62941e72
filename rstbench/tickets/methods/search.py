"""What a method of finding masks is given, and what it gives back.

A method is a callable `(search) -> (ticket, history)`, named in the group `rstbench.methods`. One that is a
dataclass takes the options in its name (`awt:probes=4`); one with a method `check(search)` refuses there,
before any work, what it cannot do; one with `length(remaining)` says how many epochs come on top of the
recipe's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from ...attacks.spec import read_options
from ...errors import BadRequest
from ...networks.network import NetworkSpec, build, prunable
from ...plugins import find
from ...references import parse_options
from ...training.epochs import Epoch, EpochCallback, TrainSplit, batches, measured
from ...training.recipe import Recipe
from ..allocation import LayerBudget, allocate, share_out
from ..mask import masked, parse_remaining, random_scores
from ..ticket import Ticket, found_ticket, scaled_weights

# Scores, then data order, then noise: the streams of one seed must not coincide.
SCORES = 1_000_003


@dataclass(frozen=True)
class Search:
    """One mask to find.

    weights: of the network, by state-dict name, as from `random_weights`; no method changes them. remaining:
    the kept fraction, as written. start: norm statistics, affine parameters and biases that come with
    trained weights. store_weights: whether the ticket holds weights that no seed regenerates. diary: a file
    for unfinished work, see `fit`.
    """

    spec: NetworkSpec
    weights: Mapping[str, Tensor]
    remaining: str
    lesson: TrainSplit
    recipe: Recipe
    device: str | torch.device = "cpu"
    watch: EpochCallback = lambda epoch: None
    start: Mapping[str, Tensor] | None = None
    store_weights: bool = True
    diary: Path | None = None

    @cached_property
    def slots(self) -> dict[str, LayerBudget]:
        """The share of each layer that is not dense. Raises BadRequest for what does not go together."""
        shapes = {name: weight.shape for name, weight in prunable(build(self.spec)).items()}
        return allocate(shapes, parse_remaining(self.remaining), self.recipe)

    @cached_property
    def used(self) -> dict[str, Tensor]:
        """The weights as the ticket uses them."""
        return scaled_weights(self.weights, self.recipe, self.remaining)

    def network(
        self, masks: Mapping[str, Tensor] = {}, weights: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """A fresh network with the weights (or with others), masked where a mask is given, on the device."""
        net = build(self.spec)
        used = self.used if weights is None else scaled_weights(weights, self.recipe, self.remaining)
        masks = {name: mask.cpu() for name, mask in masks.items()}
        weights = {name: masked(w, masks[name]) if name in masks else w for name, w in used.items()}
        net.load_state_dict({**net.state_dict(), **(self.start or {}), **weights})
        return net.to(self.device)

    def random_scores(self) -> dict[str, Tensor]:
        """The scores that a search with this seed begins at."""
        generator = Generator().manual_seed(self.recipe.seed + SCORES)
        return {name: random_scores(slot.units, generator) for name, slot in self.slots.items()}

    def ticket(
        self,
        net: nn.Module,
        masks: Mapping[str, Tensor],
        kept: Epoch,
        *,
        weights: Mapping[str, Tensor] | None = None,
        **facts: Any,
    ) -> Ticket:
        """The ticket: masks over the weights (or over others, for methods that give others), all else as it
        is in `net`; `kept` is the epoch whose state that is."""
        return found_ticket(
            self.spec,
            net,
            self.weights if weights is None else weights,
            masks,
            self.remaining,
            self.recipe,
            {"kept_epoch": asdict(kept), "on_test": self.lesson.on_test, **facts},
            store_weights=None if weights is not None else self.store_weights,
        )

    def masks(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks of the largest |scores|, one score a unit; with allocation 'global' scores are compared
        across layers as they are."""
        slots = share_out(self.slots, scores) if self.recipe.allocation == "global" else self.slots
        return {name: slot.weight_mask(scores[name]) for name, slot in slots.items()}

    def settled(
        self,
        masks: Mapping[str, Tensor],
        *,
        weights: Mapping[str, Tensor] | None = None,
        before: Sequence[Epoch] = (),
    ) -> tuple[Ticket, list[Epoch]]:
        """The ticket of these masks, for methods that learn no norm statistics on the way.

        They come from `recipe.epochs` passes over the clean training images, with the mask on. before: the
        epochs that found the masks; the passes are numbered on from them.
        """
        net = self.network(masks, weights)
        passes = [replace(row, epoch=len(before) + row.epoch) for row in settle_norm(net, self)]
        for row in passes:
            self.watch(row)
        return self.ticket(net, masks, passes[-1], weights=weights), [*before, *passes]


Method = Callable[[Search], tuple[Ticket, list[Epoch]]]


def parse_method(text: str) -> Method:
    """`rst`, `snip`, `awt:probes=4` as a callable. Raises BadRequest for unknown names and options."""
    name, _, options = text.partition(":")
    factory, given = find("methods", name), parse_options(options, text)
    if isinstance(factory, type) and is_dataclass(factory):
        return factory(**read_options(factory, name, given))  # type: ignore[return-value]
    if given:
        raise BadRequest(f"the method {name!r} has no options, got {text!r}")
    return factory


def check_method(method: Method, search: Search) -> None:
    """Raises BadRequest for what a method cannot do."""
    check: Callable[[Search], None] = getattr(method, "check", lambda search: None)
    check(search)


def single_weights(search: Search) -> None:
    """Raises BadRequest where one score would decide on several weights."""
    if any(slot.units != slot.shape for slot in search.slots.values()):
        name = search.recipe.method.partition(":")[0]
        raise BadRequest(f"method {name} scores single weights, got pattern {search.recipe.pattern!r}")


def own_weights(search: Search) -> None:
    """Raises BadRequest where a method that gives weights of its own could not give them."""
    name = search.recipe.method.partition(":")[0]
    if not search.store_weights:
        raise BadRequest(
            f"method {name} gives weights of its own, which no seed regenerates: they are stored"
        )
    if search.recipe.scale:
        raise BadRequest(f"method {name} gives weights of its own, which are never scaled; leave scale out")


@torch.no_grad()
def settle_norm(net: nn.Module, search: Search) -> list[Epoch]:
    """Passes over the clean training images in train mode, after which norm layers hold the mean of their
    statistics over the batches of all passes; nothing else moves."""
    recipe, history = search.recipe, list[Epoch]()
    net.requires_grad_(False)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        # A running average would keep part of its start, (0, 1), far from a sparse layer's small variances.
        layer.reset_running_stats()
        layer.momentum = None
    for epoch in range(1, recipe.epochs + 1):
        net.train()
        order = Generator().manual_seed(recipe.seed + epoch)
        losses = [
            cross_entropy(net(x.to(search.device)), y.to(search.device))
            for x, y in batches(search.lesson.train, recipe, order)
        ]
        with torch.enable_grad():
            accuracies = measured(net, search.lesson.select, recipe)
        history.append(Epoch(epoch, float(torch.stack(losses).mean()), *accuracies, lr=0.0))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return history
