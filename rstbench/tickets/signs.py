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

from ..errors import BadRequest
from .diary import recall, record
from .fit import Epoch, fit
from .init import random_weights
from .mask import fix, originals, parse_remaining
from .networks import build, prunable
from .search import Search, own_weights, single_weights
from .ticket import Ticket

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
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
        """Raises BadRequest without affine norm, for patterns, and where weights may not be stored."""
        if search.spec.norm != "affine":
            found = search.spec.norm
            raise BadRequest(f"method aws interpolates norm parameters; norm must be affine, not {found!r}")
        single_weights(search)
        own_weights(search)
        if not 0 < self.drop < 1 or self.warmup < 0 or self.epochs < 1:
            raise BadRequest(f"aws wants 0 < drop < 1, warmup from 0 and epochs from 1, got {self}")

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        state, masks, history = self._pruned(search)
        signed = {
            name: weight.abs() * torch.where(state[name].cpu() < 0, -1.0, 1.0)
            for name, weight in search.weights.items()
        }
        return search.settled(masks, weights=signed, before=history)

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
            found = recall(search.diary, recipe, "cpu")
            state, masks, done = found["state"], found["masks"], found["done"]
            history = [Epoch(*row) for row in found["history"]]
            for row in history:
                search.watch(row)
        for place, (epochs, kept) in enumerate(stages[done:], done):
            state, rows = _trained(search, epochs, place, state, masks, len(history))
            history += rows
            if place:
                masks = _smaller(search, state, masks, kept, last=place == len(stages) - 1)
            if search.diary:
                rows_so_far = [astuple(row) for row in history]
                found = {"state": state, "masks": masks, "done": place + 1, "history": rows_so_far}
                record(search.diary, recipe, found)
        if search.diary:
            search.diary.unlink(missing_ok=True)
        return state, masks, history


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
    for layer in net.modules():
        if isinstance(layer, NORMS):
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
    search: Search, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], kept: Fraction, *, last: bool
) -> dict[str, Tensor]:
    """The masks of the largest of the weights that the masks so far keep."""
    scores = {
        name: state[name].abs() * masks[name] if name in masks else state[name].abs() for name in search.slots
    }
    if last:
        return search.masks(scores)
    total = math.ceil(kept * sum(score.numel() for score in scores.values()))
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = torch.zeros(flat.shape, dtype=torch.bool)
    chosen[flat.topk(total, sorted=False).indices] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}
