"""Masks by hand, exact counts, and the straight-through gradient."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from rstbench.errors import BadRequest
from rstbench.tickets.allocation import LayerBudget
from rstbench.tickets.mask import (
    apply_mask,
    kept_count,
    parse_remaining,
    random_scores,
    register_masks,
    register_scores,
    straight_through,
)


def top(*shape, kept, **more):
    """Return a budget of element-wise scores."""
    return LayerBudget(shape, shape, kept, **more)


def put(layer, kept):
    """Put random scores on a layer's weight."""
    budget = top(*layer.weight.shape, kept=kept)
    scores = random_scores(budget.score_shape, torch.Generator().manual_seed(0))
    return register_scores(layer, {"weight": budget}, {"weight": scores})["weight"].scores


def test_a_mask_by_hand():
    scores = torch.tensor([[0.3, -0.9, 0.1], [-0.4, 0.2, 0.8]])
    expected = torch.tensor([[False, True, False], [True, False, True]])
    assert top(2, 3, kept=3).select(scores).equal(expected)
    assert straight_through(expected, scores).equal(expected.float())


def test_ties_keep_exactly_as_many():
    assert int(top(4, 5, kept=7).select(torch.ones(4, 5)).sum()) == 7


@pytest.mark.parametrize(
    ("remaining", "weights", "ceil", "authors"),
    [
        # (1 - 0.9) * 5120 and (1 - 0.8) * 5120 fall just below a whole number in floating point.
        ("0.9", 5120, 4608, 4609),
        ("0.8", 5120, 4096, 4097),
        ("0.9", 10, 9, 10),
        ("0.01", 1728, 18, 18),
        ("0.01", 5120, 52, 52),
        ("0.1", 7, 1, 1),
        ("1", 7, 7, 7),
    ],
)
def test_kept_counts(remaining, weights, ceil, authors):
    assert kept_count(parse_remaining(remaining), weights) == ceil
    assert kept_count(parse_remaining(remaining), weights, "authors") == authors


@pytest.mark.parametrize(
    ("ratio", "weights", "nearest", "authors"),
    [(0.26, 10, 3, 3), (0.24, 10, 2, 3), (1e-9, 10, 1, 1), (1.0, 10, 10, 10), (0.9, 5120, 4608, 4609)],
)
def test_ratios_of_the_p_rule_are_rounded(ratio, weights, nearest, authors):
    assert kept_count(ratio, weights) == nearest
    assert kept_count(ratio, weights, "authors") == authors


def test_unknown_rounding():
    with pytest.raises(BadRequest, match="must be 'ceil' or 'authors', got 'floor'"):
        kept_count(0.5, 10, "floor")


def test_a_float_means_the_decimal_that_was_written():
    assert parse_remaining(0.1) == Fraction(1, 10)
    for wrong in ("0", "1.1", "-0.1", "x", "1/3", "nan", "inf", ""):
        with pytest.raises(BadRequest, match="kept fraction"):
            parse_remaining(wrong)


def test_score_gradient_is_g_times_sign():
    torch.manual_seed(0)
    scores = torch.randn(4, 6, requires_grad=True)
    g = torch.randn(4, 6)
    mask = top(4, 6, kept=5).select(scores)
    (straight_through(mask, scores) * g).sum().backward()
    assert scores.grad.equal(g * scores.detach().sign())


def test_gradient_reaches_dropped_entries_through_a_layer():
    layer = nn.Linear(3, 2, bias=False)
    weight = layer.weight.detach().clone()
    scores = put(layer, kept=2)
    x, target = torch.ones(1, 3), torch.tensor([[1.0, -2.0]])
    (layer(x) * target).sum().backward()
    # dL/dw_eff = target (outer) x, times the weight, times the sign of the score.
    assert torch.allclose(scores.grad, target.t() * x * weight * scores.detach().sign())
    assert int((scores.grad != 0).sum()) == 6


def test_scores_start_inside_the_published_bound():
    layer = nn.Conv2d(3, 8, 3, bias=False)
    scores = put(layer, kept=100)
    largest = float(scores.detach().abs().max())
    assert 0.9 / 27**0.5 < largest <= 1 / 27**0.5


def test_dropped_weights_are_positive_zero():
    weight = torch.tensor([-1.0, -2.0, 3.0])
    dropped = apply_mask(weight, torch.tensor([False, True, False]))
    assert dropped.equal(torch.tensor([0.0, -2.0, 0.0]))
    assert not torch.signbit(dropped[[0, 2]]).any()


def test_a_fixed_mask_holds_through_training():
    layer = nn.Linear(4, 3, bias=False)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    register_masks(layer, {"weight": mask})
    optimiser = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(3):
        optimiser.zero_grad()
        layer(torch.rand(8, 4)).square().sum().backward()
        optimiser.step()
    assert (layer.weight[~mask] == 0).all()
    assert parametrize.is_parametrized(layer)
