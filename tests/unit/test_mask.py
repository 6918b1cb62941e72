"""Masks by hand, exact counts, and the straight-through gradient."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from rstbench.errors import BadRequest
from rstbench.tickets.mask import fix, hard_mask, keep_top, kept_count, masked, parse_remaining, put_scores


def test_a_mask_by_hand():
    scores = torch.tensor([[0.3, -0.9, 0.1], [-0.4, 0.2, 0.8]])
    expected = torch.tensor([[False, True, False], [True, False, True]])
    assert hard_mask(scores, 3).equal(expected)
    assert keep_top(scores, 3).equal(expected.float())


def test_ties_keep_exactly_as_many():
    assert int(hard_mask(torch.ones(4, 5), 7).sum()) == 7


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


def test_a_float_means_the_decimal_that_was_written():
    assert parse_remaining(0.1) == Fraction(1, 10)
    for wrong in ("0", "1.1", "-0.1", "x", "1/3", "nan", "inf", ""):
        with pytest.raises(BadRequest, match="kept fraction"):
            parse_remaining(wrong)


def test_score_gradient_is_g_times_sign():
    torch.manual_seed(0)
    scores = torch.randn(4, 6, requires_grad=True)
    g = torch.randn(4, 6)
    (keep_top(scores, 5) * g).sum().backward()
    assert scores.grad.equal(g * scores.detach().sign())


def test_gradient_reaches_dropped_entries_through_a_layer():
    layer = nn.Linear(3, 2, bias=False)
    weight = layer.weight.detach().clone()
    scores = put_scores(layer, {"weight": 2}, torch.Generator().manual_seed(0))["weight"]
    x, target = torch.ones(1, 3), torch.tensor([[1.0, -2.0]])
    (layer(x) * target).sum().backward()
    # dL/dw_eff = target (outer) x, times the weight, times the sign of the score.
    assert torch.allclose(scores.grad, target.t() * x * weight * scores.detach().sign())
    assert int((scores.grad != 0).sum()) == 6


def test_scores_start_inside_the_published_bound():
    layer = nn.Conv2d(3, 8, 3, bias=False)
    scores = put_scores(layer, {"weight": 100}, torch.Generator().manual_seed(0))["weight"]
    largest = float(scores.detach().abs().max())
    assert 0.9 / 27**0.5 < largest <= 1 / 27**0.5


def test_dropped_weights_are_positive_zero():
    weight = torch.tensor([-1.0, -2.0, 3.0])
    dropped = masked(weight, torch.tensor([False, True, False]))
    assert dropped.equal(torch.tensor([0.0, -2.0, 0.0]))
    assert not torch.signbit(dropped[[0, 2]]).any()


def test_a_fixed_mask_holds_through_training():
    layer = nn.Linear(4, 3, bias=False)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    fix(layer, {"weight": mask})
    optimiser = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(3):
        optimiser.zero_grad()
        layer(torch.rand(8, 4)).square().sum().backward()
        optimiser.step()
    assert (layer.weight[~mask] == 0).all()
    assert parametrize.is_parametrized(layer)
