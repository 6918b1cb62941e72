"""Random networks: the rules, and independence of everything but the seed."""

from __future__ import annotations

import math

import pytest
import torch

from rstbench.errors import BadRequest
from rstbench.networks.choices import INITS, Initialisation, signs
from rstbench.tickets.init import random_weights, weights_digest

LIKE = {"conv": torch.empty(64, 32, 3, 3), "fc": torch.empty(10, 400)}


@pytest.mark.parametrize(
    ("kind", "spread"),
    [
        ("signed_constant", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
        ("kaiming_normal", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
        ("kaiming_uniform", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
        ("xavier_normal", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
        ("binary", lambda fan_in, fan_out: 1.0),
    ],
)
def test_spread(kind, spread):
    drawn = random_weights(LIKE, kind, 0)
    assert float(drawn["conv"].std()) == pytest.approx(spread(288, 576), rel=0.02)
    assert float(drawn["fc"].std()) == pytest.approx(spread(400, 10), rel=0.05)
    assert abs(float(drawn["conv"].mean())) < 0.02 * float(drawn["conv"].std()) + 0.01


def test_bounds():
    assert random_weights(LIKE, "signed_constant", 0)["conv"].abs().unique().tolist() == pytest.approx(
        [math.sqrt(2 / 288)]
    )
    assert set(random_weights(LIKE, "binary", 0)["fc"].unique().tolist()) == {-1.0, 1.0}
    assert float(random_weights(LIKE, "kaiming_uniform", 0)["conv"].abs().max()) <= math.sqrt(6 / 288)


@pytest.mark.parametrize("kind", INITS)
def test_only_the_seed_decides(kind):
    first = random_weights(LIKE, kind, 3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = random_weights(LIKE, kind, 3)
    assert torch.get_rng_state().equal(state)
    assert weights_digest(first) == weights_digest(again)
    assert weights_digest(first) != weights_digest(random_weights(LIKE, kind, 4))


def test_signs_need_no_storage():
    assert [kind for kind in INITS if INITS[kind].portable] == ["signed_constant", "binary"]


def test_the_signs_of_a_seed_are_pinned():
    drawn = random_weights({"w": torch.empty(2, 8)}, "binary", 0)["w"]
    assert drawn.tolist() == PINNED


# What torch.randint gave under seed 0; a ticket that stores only its seed lives on this.
PINNED = [[-1, 1, 1, -1, 1, 1, 1, 1], [1, 1, 1, -1, -1, 1, -1, -1]]


def test_one_line_adds_an_initialisation(monkeypatch):
    line = Initialisation(signs, lambda fan_in, fan_out: 1 / (fan_in * fan_out))
    monkeypatch.setitem(INITS, "by_both_fans", line)
    drawn = random_weights(LIKE, "by_both_fans", 0)
    assert drawn["conv"].abs().unique().tolist() == pytest.approx([1 / (288 * 576)])
    assert drawn["fc"].abs().unique().tolist() == pytest.approx([1 / (400 * 10)])


def test_unknown_kind():
    with pytest.raises(BadRequest, match="did you mean 'kaiming_normal'"):
        random_weights(LIKE, "kaiming_norm", 0)
