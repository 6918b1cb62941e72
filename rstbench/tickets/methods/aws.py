"""Find signs and a mask by training, and put them on random weights: AWS.

Oh, Baik and Lee, "Find A Winning Sign", ICLR 2025, and its code. The norm layers must be affine: their
parameters are interpolated while training, which makes the signs transferable.
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
from ..allocation import top_mask
from ..init import random_weights
from ..mask import parse_remaining, register_masks, unparametrized_state
from ..seeds import SIGN_TRAINING
from ..ticket import Ticket
from .search import Search, require_storable_weights

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_MIN_DROP = Fraction(1, 1000)  # of the remaining weights, in each round


class NormInterpolation(nn.Module):
    """Parametrize a norm parameter: a * initial + (1 - a) * value while training, the value otherwise.

    a is one number for all norm layers, drawn anew for each step.
    """

    def __init__(self, initial: float, coefficient: InterpolationCoefficient) -> None:
        super().__init__()
        self.initial, self.coefficient = initial, coefficient

    def forward(self, value: Tensor) -> Tensor:
        if not self.training:
            return value
        return self.coefficient.value * self.initial + (1 - self.coefficient.value) * value


class InterpolationCoefficient:
    """Hold the number that all norm layers of a network share."""

    def __init__(self) -> None:
        self.value = 0.0

    def draw(self, generator: Generator) -> None:
        """Draw it uniformly from [0, 1)."""
        self.value = float(torch.rand((), generator=generator))


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
        """Raise BadRequest without affine batch norm, for patterns and ratios of layers, where it would
        begin at trained weights, and where weights may not be stored."""
        recipe = search.recipe
        if search.spec.norm != "affine":
            raise BadRequest(
                f"method aws interpolates norm parameters; norm must be affine, not {search.spec.norm!r}"
            )
        with torch.device("meta"):
            if not _affine_norms(build(search.spec)):
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
        require_storable_weights(search)
        if not _MIN_DROP <= self.drop < 1 or self.warmup < 0 or self.epochs < 1:
            raise BadRequest(
                f"aws wants drop from {_MIN_DROP} to below 1, warmup from 0 and epochs from 1, got "
                f"drop={self.drop}, warmup={self.warmup}, epochs={self.epochs}"
            )

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        state, masks, history = self._iterative_pruning(search)
        signed = {
            name: weight.abs() * torch.where(state[name].cpu() < 0, -1.0, 1.0)
            for name, weight in search.weights.items()
        }
        return search.calibrated_ticket(masks, weights=signed, history=history)

    def rounds(self, remaining: Fraction) -> list[Fraction]:
        """Return the remaining ratio after each round; the last is the ticket's."""
        ratios = [Fraction(1)]
        while ratios[-1] * (1 - self.drop) > remaining:
            ratios.append(ratios[-1] * (1 - self.drop))
        return [*ratios[1:], remaining]

    def extra_epochs(self, remaining: Fraction) -> int:
        """Return the epochs of training in all."""
        return self.warmup + self.epochs * len(self.rounds(remaining))

    def _iterative_pruning(self, search: Search) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Epoch]]:
        """Return (trained state, final masks, one row an epoch)."""
        recipe, remaining = search.recipe, parse_remaining(search.remaining)
        net = build(search.spec)
        weights = random_weights(prunable(net), recipe.init, recipe.seed + SIGN_TRAINING)
        state, masks, history = {**net.state_dict(), **weights}, dict[str, Tensor](), list[Epoch]()
        stages = [(self.warmup, Fraction(1)), *((self.epochs, ratio) for ratio in self.rounds(remaining))]
        done = 0
        if search.resume_file and search.resume_file.exists():
            with resume.restoring(search.resume_file, recipe, "cpu") as saved:
                state, masks, done = saved["state"], saved["masks"], saved["done"]
                history = [Epoch(*row) for row in saved["history"]]
            for row in history:
                search.on_epoch(row)
        for stage, (epochs, ratio) in enumerate(stages[done:], done):
            state, rows = _train(search, epochs, stage, state, masks, len(history))
            history += rows
            if stage:
                masks = _prune(search, state, masks, ratio)
            if search.resume_file:
                rows_so_far = [astuple(row) for row in history]
                saved = {"state": state, "masks": masks, "done": stage + 1, "history": rows_so_far}
                resume.save(search.resume_file, recipe, saved)
        return state, masks, history


def _affine_norms(net: nn.Module) -> list[nn.Module]:
    """Return the batch norms with parameters to interpolate."""
    return [layer for layer in net.modules() if isinstance(layer, BATCH_NORMS) and layer.affine]


def _train(
    search: Search,
    epochs: int,
    stage: int,
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    epochs_before: int,
) -> tuple[dict[str, Tensor], list[Epoch]]:
    """Train `epochs` epochs at a constant rate; return (the state, one row an epoch, numbered on)."""
    if not epochs:
        return dict(state), []
    recipe = replace(
        search.recipe, schedule="constant", select="last", epochs=epochs, seed=search.recipe.seed + stage
    )
    net, coefficient = build(search.spec), InterpolationCoefficient()
    net.load_state_dict(state)
    register_masks(net, masks)
    for layer in _affine_norms(net):
        parametrize.register_parametrization(layer, "weight", NormInterpolation(1.0, coefficient))
        parametrize.register_parametrization(layer, "bias", NormInterpolation(0.0, coefficient))
    net.to(search.device)
    file = search.resume_file
    history = fit(
        net,
        [parameter for parameter in net.parameters() if parameter.requires_grad],
        search.split,
        recipe,
        lambda row: search.on_epoch(replace(row, epoch=epochs_before + row.epoch)),
        before_step=coefficient.draw,
        resume_file=file.with_name(f"{file.name}.round") if file else None,
    )
    rows = [replace(row, epoch=epochs_before + row.epoch) for row in history]
    return unparametrized_state(net, search.spec), rows


def _prune(
    search: Search, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: Fraction
) -> dict[str, Tensor]:
    """Return the masks of the largest of the weights that the masks so far keep: `ratio` of all, never fewer
    than the ticket has, and at least one a layer."""
    budgets = search.budgets
    sizes = [budget.weights for budget in budgets.values()]
    total = sum(budget.kept for budget in budgets.values())
    if ratio != parse_remaining(search.remaining):
        total = max(math.ceil(ratio * sum(sizes)), total)
    scores = []
    for name in budgets:
        magnitude = state[name].abs()
        if name in masks:
            magnitude = torch.where(masks[name], magnitude, torch.full_like(magnitude, -1))
        score = magnitude.flatten().clone()
        score[score.argmax()] = torch.inf
        scores.append(score)
    parts = top_mask(torch.cat(scores), total).split(sizes)
    return {n: part.view(budget.shape) for (n, budget), part in zip(budgets.items(), parts, strict=True)}
