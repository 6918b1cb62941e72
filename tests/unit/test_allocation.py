"""Patterns and ratios per layer, by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rstbench.errors import BadRequest
from rstbench.models.sources.native import ticket_model
from rstbench.networks.network import prunable
from rstbench.tickets.allocation import LayerBudget, allocate, global_counts, layer_counts, p_rule
from rstbench.tickets.mask import parse_remaining
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.tickets.ticket import Ticket
from rstbench.training.recipe import recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 1, "batch": 32}
SHAPES = {"conv": (4, 2, 3, 3), "fc": (10, 8)}


def recipe(**settings):
    return recipe_for({**SMALL, **settings})


@pytest.mark.parametrize(
    ("pattern", "score_shape"),
    [
        ("element", {"conv": (4, 2, 3, 3), "fc": (10, 8)}),
        ("row", {"conv": (4, 2, 3, 1), "fc": (10, 8)}),
        ("kernel", {"conv": (4, 2, 1, 1), "fc": (10, 8)}),
    ],
)
def test_the_shape_of_scores(pattern, score_shape):
    budgets = allocate(SHAPES, Fraction(1, 2), recipe(pattern=pattern))
    assert {name: budget.score_shape for name, budget in budgets.items()} == score_shape
    assert {name: budget.kept_weights for name, budget in budgets.items()} == {"conv": 36, "fc": 40}


def test_rows_kernels_and_filters_by_hand():
    weight = (2, 2, 2, 2)
    rows = LayerBudget(weight, (2, 2, 2, 1), 3)
    scores = torch.tensor([[[[1.0], [-8.0]], [[3.0], [2.0]]], [[[-7.0], [0.0]], [[6.0], [5.0]]]])
    mask = rows.weight_mask(scores)
    expected = torch.zeros(weight, dtype=torch.bool)
    expected[0, 0, 1] = expected[1, 0, 0] = expected[1, 1, 0] = True
    assert mask.equal(expected)
    kernels = LayerBudget(weight, (2, 2, 1, 1), 1)
    assert kernels.weight_mask(torch.tensor([[[[1.0]], [[-4.0]]], [[[2.0]], [[3.0]]]]))[0, 1].all()
    filters = LayerBudget(weight, (2, 1, 1, 1), 1)
    assert filters.weight_mask(torch.tensor([[[[1.0]]], [[[-4.0]]]])).flatten(1).all(1).tolist() == [
        False,
        True,
    ]


def test_filters_spare_the_last_layer():
    budgets = allocate(SHAPES, Fraction(1, 2), recipe(pattern="filter", dense="last"))
    assert {name: budget.score_shape for name, budget in budgets.items()} == {"conv": (4, 1, 1, 1)}
    with pytest.raises(BadRequest, match="would delete classes"):
        allocate(SHAPES, Fraction(1, 2), recipe(pattern="filter"))


def test_two_of_four_by_hand():
    budgets = allocate({"conv": (2, 2, 3, 3), "fc": (3, 8)}, Fraction(1, 2), recipe(pattern="2:4"))
    assert list(budgets) == ["fc"], "18 inputs are no multiple of 4"
    scores = torch.tensor([[1.0, -9, 3, 0, 5, 6, -7, 1], [0, 0, 1, 2, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8]])
    mask = budgets["fc"].weight_mask(scores)
    assert mask.int().tolist() == [
        [0, 1, 1, 0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0, 1, 1],
    ]
    conv = LayerBudget((2, 4, 3, 3), (2, 4, 3, 3), 36, group_size=4)
    kept = conv.weight_mask(torch.randn(2, 4, 3, 3))
    assert (kept.reshape(-1, 4).sum(1) == 2).all(), "groups run along the flattened input"


@pytest.mark.parametrize(
    ("settings", "remaining", "message"),
    [
        ({"pattern": "2:4"}, "0.4", "keeps 0.5 of the weights, got 0.4"),
        ({"pattern": "5:4"}, "1", "N of M"),
        ({"pattern": "2:4", "allocation": "global"}, "0.5", "allocation must be uniform"),
        ({"pattern": "3:7"}, "0.5", "which no decimal writes"),
        ({"pattern": "column"}, "0.5", "no pattern named"),
        ({"allocation": "p:x"}, "0.5", "p:0.1"),
        ({"allocation": "local"}, "0.5", "no allocation named"),
        ({"dense": "middle"}, "0.5", "no dense named 'middle'"),
        ({"dense": "first+last"}, "0.5", "every layer is dense"),
    ],
)
def test_what_does_not_go_together(settings, remaining, message):
    with pytest.raises(BadRequest, match=message):
        allocate(SHAPES, parse_remaining(remaining), recipe(**settings))


def test_the_p_rule():
    sizes = {"small": 100, "large": 10000}
    assert p_rule(sizes, Fraction(1, 10), 1.0) == pytest.approx({"small": 0.1, "large": 0.1})
    # p = 0: equally many in each layer, 505; the small one has only 100, the large keeps the rest.
    assert p_rule(sizes, Fraction(1, 10), 0.0) == pytest.approx({"small": 1.0, "large": 910 / 10000})
    even = p_rule({"a": 1000, "b": 10000}, Fraction(1, 10), 0.0)
    assert even == pytest.approx({"a": 0.55, "b": 0.055})


@given(
    st.dictionaries(st.text("abc", min_size=1), st.integers(1, 5000), min_size=1),
    st.integers(1, 100),
    st.floats(0, 1),
)
def test_the_p_rule_keeps_what_was_asked(sizes, percent, p):
    ratios = p_rule(sizes, Fraction(percent, 100), p)
    assert set(ratios) == set(sizes)
    assert all(0 < ratio <= 1 + 1e-9 for ratio in ratios.values())
    assert sum(ratios[n] * sizes[n] for n in sizes) == pytest.approx(percent / 100 * sum(sizes.values()))


def test_a_layer_never_vanishes():
    assert layer_counts({"a": 3}, Fraction(1, 1000), recipe()) == {"a": 1}
    assert layer_counts({"a": 3, "b": 9000}, Fraction(1, 1000), recipe(allocation="p:1"))["a"] == 1
    scores = {"a": torch.full((2, 2), 1e-6), "b": torch.ones(10, 2)}
    assert global_counts(scores, 5) == {"a": 1, "b": 4}


def test_global_ranks_all_layers_together():
    # Scores count in units of their start's bound, 1/sqrt(2) for both.
    scores = {"a": torch.tensor([[5.0, -4.0]]), "b": torch.tensor([[3.0, 1.0], [0.5, -6.0]])}
    assert global_counts(scores, 3) == {"a": 2, "b": 1}
    assert global_counts(scores, 4) == {"a": 2, "b": 2}


def test_the_floor_leaves_each_output_a_weight():
    scores = torch.tensor([[9.0, 8.0, 7.0], [0.3, 0.2, 0.1], [6.0, 5.0, 4.0]])
    budget = allocate({"fc": (3, 3)}, Fraction(1, 3), recipe(floor=True))["fc"]
    assert budget.weight_mask(scores).int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    four = LayerBudget((3, 3), (3, 3), 4, floor=True)
    assert four.weight_mask(scores).int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert allocate({"fc": (3, 3)}, Fraction(1, 9), recipe(floor=True))["fc"].kept == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"pattern": "row"},
        {"pattern": "kernel"},
        {"pattern": "filter", "dense": "last"},
        {"pattern": "2:4"},
        {"allocation": "p:0.1"},
        {"allocation": "global"},
        {"dense": "first"},
        {"floor": True},
        {"scale": True},
        {"init": "kaiming_normal", "scale": True},
    ],
)
def test_every_choice_makes_a_ticket_that_is_read_back(spec, weights, split, settings, tmp_path):
    from rstbench.tickets.init import random_weights

    own = recipe(**settings)
    drawn = random_weights(weights, own.init, own.seed)
    ticket, _ = edge_popup(Search(spec, drawn, "0.5", split, own))
    ticket.save(tmp_path / "t.safetensors")
    found = Ticket.load(tmp_path / "t.safetensors")
    assert found.digest == ticket.digest
    kept = {name: int((w != 0).sum()) for name, w in prunable(found.module()).items()}
    assert kept == {name: int(mask.sum()) for name, mask in ticket.masks.items()}
    assert ticket.kept_weights <= 0.75 * ticket.total_weights
    factor = 2**0.5 if own.scale else 1
    name = "0.weight"
    weight = found.module().get_parameter(name)
    assert torch.allclose(weight[ticket.masks[name]], drawn[name][ticket.masks[name]] * factor)
    # The random network is the same, scaled or not.
    assert found.random_digest == ticket.random_digest


def test_a_search_that_moves_nothing_says_so(spec, weights, split):
    """Behind batch norm the scale of a kept filter is void and ReLU passes nothing back to a dropped one:
    a search over whole filters ends where it began."""
    filters, _ = edge_popup(
        Search(spec, weights, "0.5", split, recipe(pattern="filter", dense="last", epochs=2))
    )
    assert filters.unlearnt
    assert ticket_model(filters, "x").info.flags == ("unlearnt-mask",)
    single, _ = edge_popup(Search(spec, weights, "0.5", split, recipe(epochs=2)))
    assert not single.unlearnt
    assert single.facts["unmoved"] == []
