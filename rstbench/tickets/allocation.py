"""Allocate the kept weights to the layers: sparsity patterns, ratios per layer, dense layers.

A `LayerBudget` is one layer's share of a ticket: the shape of its scores and the number of units it keeps. A
unit is what one score decides on: a weight, a kernel row, a kernel, or a filter. To add a pattern, add the
shape of its scores to `score_shape`; to add an allocation, add its ratios to `layer_counts`; and add the name
of either to `FORMS` in `training.recipe`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from ..errors import BadRequest, unknown
from ..training.recipe import FORMS, PATTERNS, Recipe
from .mask import kept_count


@dataclass(frozen=True)
class LayerBudget:
    """Say how many units of one layer stay.

    shape: of the weight; score_shape: of its scores, broadcastable to the weight; kept: number of units that
    stay; group_size: M of an N:M pattern along the flattened input, 0 for none; floor: every output keeps a
    weight.
    """

    shape: tuple[int, ...]
    score_shape: tuple[int, ...]
    kept: int
    group_size: int = 0
    floor: bool = False

    @property
    def weights(self) -> int:
        """Return the number of weights of the layer."""
        return math.prod(self.shape)

    @property
    def kept_weights(self) -> int:
        """Return the number of weights that stay."""
        return self.kept * (self.weights // math.prod(self.score_shape))

    def select(self, scores: Tensor) -> Tensor:
        """Return a boolean mask of the units of largest |score|, of the scores' shape; exactly `kept`."""
        magnitude = scores.detach().abs()
        if self.group_size:
            kept_per_group = self.kept * self.group_size // self.weights
            groups = magnitude.reshape(-1, self.group_size)
            mask = torch.zeros(groups.shape, dtype=torch.bool, device=scores.device)
            indices = groups.topk(kept_per_group, 1, sorted=False).indices
            return mask.scatter_(1, indices, True).view(scores.shape)
        flat = magnitude.flatten()
        if self.floor:
            # The best of each output comes first whatever its score.
            rows = magnitude.reshape(len(magnitude), -1).clone()
            rows.scatter_(1, rows.argmax(1, keepdim=True), torch.inf)
            flat = rows.flatten()
        return top_mask(flat, self.kept).view(scores.shape)

    def weight_mask(self, scores: Tensor) -> Tensor:
        """Return the mask of the weight, of its shape."""
        return self.select(scores).expand(self.shape).contiguous()


def top_mask(scores: Tensor, kept: int) -> Tensor:
    """Return a boolean mask of the `kept` largest of flat scores."""
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mask[scores.topk(kept, sorted=False).indices] = True
    return mask


def allocate(
    shapes: Mapping[str, Sequence[int]], remaining: Fraction, recipe: Recipe
) -> dict[str, LayerBudget]:
    """Return the budget of every layer that is not dense, by weight name, in the network's order.

    Raises BadRequest for a pattern and a ratio or layer that do not go together.
    """
    pattern, dense = recipe.pattern, dense_layers(list(shapes), recipe)
    sparse = {name: tuple(shape) for name, shape in shapes.items() if name not in dense}
    if not sparse:
        raise BadRequest("every layer is dense: there is nothing to choose")
    if recipe.allocation == "global" and (recipe.floor or recipe.scale):
        setting = "floor" if recipe.floor else "scale"
        raise BadRequest(f"{setting} needs a ratio for each layer, and allocation global fixes none")
    if pattern == "filter" and recipe.floor:
        raise BadRequest("floor keeps a weight of every output, pattern filter drops whole outputs")
    if match := re.fullmatch(r"(\d+):(\d+)", pattern):
        return _n_m_budgets(sparse, int(match[1]), int(match[2]), remaining, recipe)
    if pattern not in PATTERNS:
        raise unknown("pattern", pattern, FORMS["pattern"])
    last = list(shapes)[-1]
    if pattern == "filter" and last in sparse:
        raise BadRequest("pattern filter would delete classes from the last layer; add dense = 'last'")
    score_shapes = {name: score_shape(shape, pattern) for name, shape in sparse.items()}
    sizes = {name: math.prod(shape) for name, shape in score_shapes.items()}
    kept = layer_counts(sizes, remaining, recipe)
    floors = {name: shape[0] if recipe.floor else 1 for name, shape in sparse.items()}
    return {
        name: LayerBudget(shape, score_shapes[name], max(kept[name], floors[name]), floor=recipe.floor)
        for name, shape in sparse.items()
    }


def dense_layers(names: Sequence[str], recipe: Recipe) -> list[str]:
    """Return the layers that keep all their weights by the recipe's choice."""
    ends = {"first": names[0], "last": names[-1]}
    return [ends[end] for end in recipe.dense.split("+") if end]


def score_shape(shape: Sequence[int], pattern: str) -> tuple[int, ...]:
    """Return the shape of the scores of a weight (out, in, height, width) or (out, in).

    On linear layers and 1x1 kernels a row or a kernel is one weight.
    """
    kept_dims = {"element": 4, "row": 3, "kernel": 2, "filter": 1}[pattern]
    return tuple(size if dim < kept_dims else 1 for dim, size in enumerate(shape))


def layer_counts(sizes: Mapping[str, int], remaining: Fraction, recipe: Recipe) -> dict[str, int]:
    """Return the number of units to keep in each layer; at least one. For 'global' the uniform counts, to
    start from. Raises BadRequest for unknown allocations."""
    kind, _, exponent = recipe.allocation.partition(":")
    ratios: Mapping[str, Fraction | float] = dict.fromkeys(sizes, remaining)
    if kind == "p":
        ratios = p_rule(sizes, remaining, p_exponent(exponent))
    elif recipe.allocation not in ("uniform", "global"):
        raise unknown("allocation", recipe.allocation, FORMS["allocation"])
    return {name: kept_count(ratios[name], size, recipe.kept_count) for name, size in sizes.items()}


def p_rule(sizes: Mapping[str, int], remaining: Fraction, p: float) -> dict[str, float]:
    """Return ratios c n^(p-1), capped at 1 from the smallest layer up, that keep `remaining` of all.

    p = 1 is uniform, p = 0 keeps equally many in each layer. Source: Liu et al., "Robust Binary Models by
    Pruning Randomly-initialized Networks", NeurIPS 2022.
    """
    budget = float(remaining) * sum(sizes.values())
    ratios: dict[str, float] = {}
    left = sorted(sizes, key=lambda name: sizes[name])
    while left:
        scale = budget / sum(sizes[name] ** p for name in left)
        smallest = left[0]
        if scale * sizes[smallest] ** (p - 1) < 1:
            return ratios | {name: scale * sizes[name] ** (p - 1) for name in left}
        ratios[smallest] = 1.0
        budget -= sizes[smallest]
        left = left[1:]
    return ratios


def global_counts(scores: Mapping[str, Tensor], total: int) -> dict[str, int]:
    """Count how many of each layer are among the `total` largest |scores| of all; at least one each."""
    sizes = [score.numel() for score in scores.values()]
    flat = torch.cat([score.detach().abs().flatten() for score in scores.values()])
    masks = top_mask(flat, total).split(sizes)
    counts = {name: int(mask.sum()) for name, mask in zip(scores, masks, strict=True)}
    # Layers raised to one are paid for by the largest of the others.
    for empty in [name for name, count in counts.items() if count == 0]:
        counts[max(counts, key=lambda name: counts[name])] -= 1
        counts[empty] = 1
    return counts


def allocate_globally(
    budgets: Mapping[str, LayerBudget], scores: Mapping[str, Tensor]
) -> dict[str, LayerBudget]:
    """Return the budgets with all kept units allocated anew by these scores, as allocation 'global' does."""
    counts = global_counts(scores, sum(budget.kept for budget in budgets.values()))
    return {name: replace(budget, kept=counts[name]) for name, budget in budgets.items()}


def _n_m_budgets(
    shapes: Mapping[str, tuple[int, ...]], n: int, m: int, remaining: Fraction, recipe: Recipe
) -> dict[str, LayerBudget]:
    if not 0 < n <= m:
        raise BadRequest(f"pattern N:M keeps N of M weights, 0 < N <= M, got {recipe.pattern}")
    if Fraction(n, m) != Fraction(str(n / m)):
        raise BadRequest(
            f"pattern {recipe.pattern} keeps {n}/{m}, which no decimal writes; M is 2, 4, 5, 8, …"
        )
    if remaining != Fraction(n, m):
        raise BadRequest(f"pattern {recipe.pattern} keeps {n / m:g} of the weights, got {float(remaining):g}")
    if recipe.allocation != "uniform" or recipe.floor:
        raise BadRequest(
            f"pattern {recipe.pattern} fixes the ratio of every layer; allocation must be uniform"
        )
    divisible = {name: shape for name, shape in shapes.items() if math.prod(shape[1:]) % m == 0}
    if not divisible:
        raise BadRequest(f"no layer has a multiple of {m} inputs: pattern {recipe.pattern} keeps all dense")
    return {name: LayerBudget(s, s, math.prod(s) * n // m, group_size=m) for name, s in divisible.items()}


def p_exponent(text: str) -> float:
    """Return the exponent of the p-rule. Raises BadRequest outside [0, 1]."""
    try:
        exponent = float(text)
    except ValueError:
        exponent = math.nan
    if not 0 <= exponent <= 1:
        raise BadRequest(f"allocation p reads 'p:0.1', from 0 (equal counts) to 1 (uniform), got 'p:{text}'")
    return exponent
