"""Signs and masks found by training, moved onto random weights: AWS.

Oh, Baik and Lee, "Find A Winning Sign", ICLR 2025, and its code. The norm layers must be affine: the twist
that makes the signs transferable interpolates their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from fractions import Fraction

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from ...errors import BadRequest
from ...networks.network import build, prunable
from ...training import resume
from ...training.epochs import Epoch, fit
from ..init import random_weights
from ..mask import fix, originals, parse_remaining
from ..ticket import Ticket
from .search import Search, own_weights

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_SLOWEST = Fraction(1, 1000)  # part of the weights that a round drops
_SOURCE = 7_919  # the trained network is not the one that receives its signs


class Interpolated(nn.Module):
    """Parametrization of a norm parameter: a start + (1 - a) value while training, the value otherwise.

    a is one number for all norm layers, drawn anew for each step.
    """

    def __init__(self, start: float, mix: Mix) -> None:
        super().__init__()
        self.start, self.mix = start, mix

    def forward(self, value: Tensor) -> Tensor:
        if not self.training:
            return value
        return self.mix.part * self.start + (1 - self.mix.part) * value


class Mix:
    """The number that all norm layers of a network share."""

    def __init__(self) -> None:
        self.part = 0.0

    def draw(self, generator: Generator) -> None:
        self.part = float(torch.rand((), generator=generator))


@dataclass(frozen=True)
class AWS:
    """`aws`: iterative magnitude pruning of a trained network, then its mask and signs on the random weights.

    Training begins at other random weights; after `warmup` epochs, each round of `epochs` epochs at a
    constant rate ends with `drop` of the remaining weights pruned, the smallest of all layers together,
    until the ticket's number is left. The loss is that of the recipe's adversary. Random weights under the
    mask take the trained signs, magnitudes stay; norm parameters start anew. Where the recipe keeps the last
    layer dense, as the paper does, its weights take their signs too.
    """

    warmup: int = 10
    epochs: int = 10
    drop: Fraction = Fraction(1, 5)

    def check(self, search: Search) -> None:
        """Raises BadRequest without affine batch norm, for patterns and ratios of layers, where it would
        begin at trained weights, and where weights may not be stored."""
        recipe = search.recipe
        if search.spec.norm != "affine":
            found = search.spec.norm
            raise BadRequest(f"method aws interpolates norm parameters; norm must be affine, not {found!r}")
        with torch.device("meta"):
            if not _norms(build(search.spec)):
                raise BadRequest(
                    f"method aws interpolates affine batch norm, and {search.spec.name} has none"
                )
        if recipe.allocation != "global" or recipe.pattern != "element":
            raise BadRequest(
                f"method aws prunes single weights of all layers together: allocation must be global and "
                f"pattern element, got {recipe.allocation} and {recipe.pattern}"
            )
        if recipe.origin:
            raise BadRequest("method aws trains a network of its own; leave --from out")
        if recipe.adversary != "none" and recipe.attack_bn == "eval":
            raise BadRequest("method aws interpolates in train mode only; attack-bn must be train")
        own_weights(search)
        if not _SLOWEST <= self.drop < 1 or self.warmup < 0 or self.epochs < 1:
            raise BadRequest(
                f"aws wants drop from {_SLOWEST} to below 1, warmup from 0 and epochs from 1, got "
                f"drop={self.drop}, warmup={self.warmup}, epochs={self.epochs}"
            )

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        state, masks, history = self._pruned(search)
        signed = {
            name: weight.abs() * torch.where(state[name].cpu() < 0, -1.0, 1.0)
            for name, weight in search.weights.items()
        }
        found = search.settled(masks, weights=signed, before=history)
        if search.diary:
            search.diary.unlink(missing_ok=True)
        return found

    def rounds(self, remaining: Fraction) -> list[Fraction]:
        """Kept fractions after each round; the last is the ticket's."""
        kept = [Fraction(1)]
        while kept[-1] * (1 - self.drop) > remaining:
            kept.append(kept[-1] * (1 - self.drop))
        return [*kept[1:], remaining]

    def length(self, remaining: Fraction) -> int:
        """Epochs of training in all."""
        return self.warmup + self.epochs * len(self.rounds(remaining))

    def _pruned(self, search: Search) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Epoch]]:
        """(trained state, final masks, one row an epoch)."""
        recipe, remaining = search.recipe, parse_remaining(search.remaining)
        net = build(search.spec)
        weights = random_weights(prunable(net), recipe.init, recipe.seed + _SOURCE)
        state, masks, history = {**net.state_dict(), **weights}, dict[str, Tensor](), list[Epoch]()
        stages = [(self.warmup, Fraction(1)), *((self.epochs, kept) for kept in self.rounds(remaining))]
        done = 0
        if search.diary and search.diary.exists():
            found = resume.load(search.diary, recipe, "cpu")
            state, masks, done = found["state"], found["masks"], found["done"]
            history = [Epoch(*row) for row in found["history"]]
            for row in history:
                search.watch(row)
        for place, (epochs, kept) in enumerate(stages[done:], done):
            state, rows = _trained(search, epochs, place, state, masks, len(history))
            history += rows
            if place:
                masks = _smaller(search, state, masks, kept)
            if search.diary:
                rows_so_far = [astuple(row) for row in history]
                found = {"state": state, "masks": masks, "done": place + 1, "history": rows_so_far}
                resume.save(search.diary, recipe, found)
        return state, masks, history


def _norms(net: nn.Module) -> list[nn.Module]:
    """Batch norms with parameters to interpolate."""
    return [layer for layer in net.modules() if isinstance(layer, NORMS) and layer.affine]


def _trained(
    search: Search,
    epochs: int,
    stage: int,
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    before: int,
) -> tuple[dict[str, Tensor], list[Epoch]]:
    """(the state after `epochs` epochs at a constant rate, one row an epoch, numbered on from `before`)."""
    if not epochs:
        return dict(state), []
    recipe = replace(
        search.recipe, schedule="constant", select="last", epochs=epochs, seed=search.recipe.seed + stage
    )
    net, mix = build(search.spec), Mix()
    net.load_state_dict(state)
    fix(net, masks)
    for layer in _norms(net):
        parametrize.register_parametrization(layer, "weight", Interpolated(1.0, mix))
        parametrize.register_parametrization(layer, "bias", Interpolated(0.0, mix))
    net.to(search.device)
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    diary = search.diary.with_name(f"{search.diary.name}.round") if search.diary else None
    history = fit(
        net,
        learnt,
        search.lesson,
        recipe,
        lambda row: search.watch(replace(row, epoch=before + row.epoch)),
        before_step=mix.draw,
        diary=diary,
    )
    rows = [replace(row, epoch=before + row.epoch) for row in history]
    return originals(net, search.spec), rows


def _smaller(
    search: Search, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], kept: Fraction
) -> dict[str, Tensor]:
    """The masks of the largest of the weights that the masks so far keep: `kept` of all, never fewer than the
    ticket has, and at least one a layer."""
    sizes = [slot.weights for slot in search.slots.values()]
    total = max(math.ceil(kept * sum(sizes)), sum(slot.kept for slot in search.slots.values()))
    if kept == parse_remaining(search.remaining):
        total = sum(slot.kept for slot in search.slots.values())
    scores = []
    for name in search.slots:
        size = state[name].abs()
        score = torch.where(masks[name], size, torch.full_like(size, -1)) if name in masks else size
        score = score.flatten().clone()
        score[score.argmax()] = torch.inf
        scores.append(score)
    chosen = torch.zeros(sum(sizes), dtype=torch.bool)
    chosen[torch.cat(scores).topk(total, sorted=False).indices] = True
    parts = chosen.split(sizes)
    return {n: part.view(slot.shape) for (n, slot), part in zip(search.slots.items(), parts, strict=True)}
