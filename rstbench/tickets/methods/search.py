"""Define a search, what a method of finding masks is given, and look methods up by name.

A method is a callable `(search) -> (ticket, history)`. To add one, write it in a file of this folder, by
`Search.network`, `Search.masks`, `Search.ticket` and `Search.calibrated_ticket`, and add one line to the
group `methods` of `plugins.BUILTIN`; its default settings, if any, go to `BY_METHOD` in `training.recipe`.
One that is a dataclass takes the options in its name (`awt:probes=4`); one with a method `check(search)`
refuses there, before any work, what it cannot do; one with `extra_epochs(remaining)` says how many epochs
come on top of the recipe's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from ...attacks.spec import read_options
from ...errors import BadRequest
from ...networks.choices import INITS
from ...networks.network import NetworkSpec, build, prunable
from ...networks.subnormals import flush_to_zero
from ...plugins import find
from ...references import parse_options
from ...training.epochs import Epoch, EpochCallback, TrainSplit, batches, measure_accuracy
from ...training.recipe import DrawOptions, Recipe
from ..allocation import LayerBudget, allocate, allocate_globally
from ..init import weights_digest
from ..mask import apply_masks, parse_remaining, random_scores
from ..seeds import SCORES
from ..ticket import Ticket, scale_weights


@dataclass(frozen=True)
class Search:
    """Hold what a method needs to find one mask.

    weights: of the network, by state-dict name, as from `random_weights`; no method changes them. remaining:
    the remaining ratio, as written. initial_state: norm statistics, affine parameters and biases that come
    with trained weights. options: those of `draw` that the recipe does not hold.
    resume_file: for unfinished work, see `fit`.
    """

    spec: NetworkSpec
    weights: Mapping[str, Tensor]
    remaining: str
    split: TrainSplit
    recipe: Recipe
    device: str | torch.device = "cpu"
    on_epoch: EpochCallback = lambda epoch: None
    initial_state: Mapping[str, Tensor] | None = None
    options: DrawOptions = field(default_factory=DrawOptions)
    resume_file: Path | None = None

    @cached_property
    def budgets(self) -> dict[str, LayerBudget]:
        """Return the budget of each layer that is not dense. Raises BadRequest as `allocate`."""
        shapes = {name: weight.shape for name, weight in prunable(build(self.spec)).items()}
        return allocate(shapes, parse_remaining(self.remaining), self.recipe)

    @cached_property
    def scaled_weights(self) -> dict[str, Tensor]:
        """Return the weights as the ticket uses them."""
        return scale_weights(self.weights, self.recipe, self.remaining)

    def network(
        self, masks: Mapping[str, Tensor] = {}, weights: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """Build a network with these weights (the search's by default), masked where a mask is given, on the
        device."""
        net = build(self.spec)
        scaled = scale_weights(weights or self.weights, self.recipe, self.remaining)
        sparse = apply_masks(scaled, {name: mask.cpu() for name, mask in masks.items()})
        net.load_state_dict({**net.state_dict(), **(self.initial_state or {}), **sparse})
        return net.to(self.device)

    def random_scores(self) -> dict[str, Tensor]:
        """Draw the scores that a search with this seed begins at."""
        generator = Generator().manual_seed(self.recipe.seed + SCORES)
        return {name: random_scores(budget.score_shape, generator) for name, budget in self.budgets.items()}

    def ticket(
        self,
        net: nn.Module,
        masks: Mapping[str, Tensor],
        kept: Epoch,
        *,
        weights: Mapping[str, Tensor] | None = None,
        **facts: Any,
    ) -> Ticket:
        """Return the ticket: masks over the weights (or over others, for methods that give others), all else
        as it is in `net`; `kept` is the epoch whose state that is.

        Layers without a mask stay dense. Weights that a seed regenerates are not stored, others are unless
        the user declined (`DrawOptions.store_weights`).
        """
        base, state = self.weights if weights is None else flush_to_zero(weights), net.state_dict()
        full = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in base.items()}
        from_seed = INITS[self.recipe.init].portable and not self.recipe.origin
        stored = weights is not None or (self.options.store_weights and not from_seed)
        rest = [name for name in build(self.spec).state_dict() if name not in base]
        dense = [name for name in base if name not in masks]
        return Ticket(
            recipe=self.recipe,
            spec=self.spec,
            remaining=self.remaining,
            masks=full | {name: mask.cpu() for name, mask in masks.items()},
            buffers=flush_to_zero({name: state[name].detach().cpu().clone() for name in rest}),
            random_digest=weights_digest(base),
            weights=dict(base) if stored else None,
            facts={"kept_epoch": asdict(kept), "on_test": self.split.on_test, **facts, "dense": dense},
        )

    def masks(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the masks of the largest |scores|, one score a unit; with allocation 'global' scores are
        compared across layers as they are."""
        budgets = self.budgets
        if self.recipe.allocation == "global":
            budgets = allocate_globally(budgets, scores)
        return {name: budget.weight_mask(scores[name]) for name, budget in budgets.items()}

    def calibrated_ticket(
        self,
        masks: Mapping[str, Tensor],
        *,
        weights: Mapping[str, Tensor] | None = None,
        history: Sequence[Epoch] = (),
    ) -> tuple[Ticket, list[Epoch]]:
        """Return the ticket of these masks, for methods that learn no norm statistics on the way.

        They come from `recipe.epochs` passes over the clean training images, with the mask on. history: the
        epochs that found the masks; the passes are numbered on from them. The resume file is removed.
        """
        net = self.network(masks, weights)
        passes = calibrate_batch_norm(net, self)
        passes = [replace(row, epoch=len(history) + row.epoch) for row in passes]
        for row in passes:
            self.on_epoch(row)
        if self.resume_file:
            self.resume_file.unlink(missing_ok=True)
        return self.ticket(net, masks, passes[-1], weights=weights), [*history, *passes]


Method = Callable[[Search], tuple[Ticket, list[Epoch]]]


def parse_method(text: str) -> Method:
    """Return the method that a text such as `rst` or `awt:probes=4` names. Raises BadRequest."""
    name, _, options = text.partition(":")
    factory, given = find("methods", name), parse_options(options, text)
    if isinstance(factory, type) and is_dataclass(factory):
        return factory(**read_options(factory, name, given))  # type: ignore[return-value]
    if given:
        raise BadRequest(f"the method {name!r} has no options, got {text!r}")
    return factory


def check_method(method: Method, search: Search) -> None:
    """Raise BadRequest for what a method cannot do."""
    check: Callable[[Search], None] = getattr(method, "check", lambda search: None)
    check(search)


def require_elementwise_scores(search: Search) -> None:
    """Raise BadRequest where one score would decide on several weights."""
    if any(budget.score_shape != budget.shape for budget in search.budgets.values()):
        name = search.recipe.method.partition(":")[0]
        raise BadRequest(f"method {name} scores single weights, got pattern {search.recipe.pattern!r}")


def require_storable_weights(search: Search) -> None:
    """Raise BadRequest where a method that gives weights of its own could not store them."""
    name = search.recipe.method.partition(":")[0]
    if not search.options.store_weights:
        raise BadRequest(
            f"method {name} gives weights of its own, which no seed regenerates: they are stored"
        )
    if search.recipe.scale:
        raise BadRequest(f"method {name} gives weights of its own, which are never scaled; leave scale out")


@torch.no_grad()
def calibrate_batch_norm(net: nn.Module, search: Search) -> list[Epoch]:
    """Pass over the clean training images in train mode, after which norm layers hold the mean of their
    statistics over the batches of all passes; nothing else changes."""
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
            for x, y in batches(search.split.train, recipe, order)
        ]
        with torch.enable_grad():
            accuracies = measure_accuracy(net, search.split.select, recipe)
        history.append(Epoch(epoch, float(torch.stack(losses).mean()), *accuracies, lr=0.0))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return history
