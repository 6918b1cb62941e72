"""Models that lie are refused, flagged or brought near the truth, and honest ones raise no alarm."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch
from gallery import LIARS
from gradients import replaced_gradient
from honest import HONEST, LARGER, small
from measure import ALARMS, REFUSED, WITHIN, alarm_table, figures, misleads
from memory import TimeDependent
from torch import nn

from rstbench.evaluation.slopes import ROUNDING, _differs, has_shattered_gradient

BOARD = Path(__file__).parents[2] / "leaderboards" / "reliability"
ASKED = {"data": "digits:test:40", "threat": "Linf:0.1"}
SILENT = ["Shifted", "MemorisedImages", "EditsInput"]  # brought near the truth by PGD already


def alarms(table):
    return ALARMS & set(table["flags"].split())


@pytest.fixture(scope="module")
def truth():
    return figures(small(), **ASKED, attacks="pgd")["worst"]


@pytest.mark.parametrize("name", [name for name, kind in LIARS.items() if kind.alarm not in ("", REFUSED)])
def test_pgd_alone_is_enough_to_flag(name):
    kind = LIARS[name]
    clock = {"seconds": 30, "clock": itertools.count().__next__} if kind is TimeDependent else {}
    # Exact: the copy that a fast attack sees may be free of the lie.
    told = figures(kind(small(), **clock), **ASKED, attacks="pgd", crafting="exact")
    assert kind.alarm in alarms(told)


@pytest.mark.parametrize("name", [name for name, kind in LIARS.items() if kind.alarm == REFUSED])
def test_refused_with_one_line(name):
    told = figures(LIARS[name](small()), **ASKED, attacks="pgd")
    assert pd.isna(told["worst"])
    assert told["fault"].startswith("model")
    assert "\n" not in told["fault"]


@pytest.mark.parametrize("name", SILENT)
def test_lies_that_change_nothing(name, truth):
    told = figures(LIARS[name](small()), **ASKED, attacks="pgd")
    assert told["worst"] == pytest.approx(truth, abs=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in LIARS.items() if not kind.alarm])
def test_autoattack_brings_the_rest_near_the_truth_or_flags_it(name):
    told, truth = figures(LIARS[name](small()), **ASKED), figures(small(), **ASKED)["worst"]
    assert told["worst"] == pytest.approx(truth, abs=WITHIN) or alarms(told)


@pytest.mark.parametrize("name", HONEST | LARGER)
def test_honest_models_raise_no_alarm(name):
    told = figures((HONEST | LARGER)[name](), **ASKED, attacks="pgd")
    assert not alarms(told)
    assert not told["fault"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_larger_honest_models_raise_no_alarm_under_autoattack(name):
    told = figures(LARGER[name](), **ASKED)
    assert not alarms(told)
    assert not told["fault"]


class Scaled(nn.Module):
    """Ten random linear functions, whose gradients are told too small or too large."""

    def __init__(self, factor):
        super().__init__()
        self.weight = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
        self.factor = factor

    def forward(self, x):
        return replaced_gradient(x, lambda gradient: self.factor * gradient).flatten(1) @ self.weight


@pytest.mark.parametrize("factor", [1, 0.6, 1.8])
@pytest.mark.parametrize("coarse", [False, True])
def test_a_gradient_off_by_less_than_half_its_length_is_none_of_the_alarms(factor, coarse):
    assert not has_shattered_gradient(Scaled(factor), torch.rand(4, 1, 8, 8), coarse=coarse)


@pytest.mark.parametrize("factor", [0, 0.4, 2.5, -1, float("nan")])
def test_a_gradient_off_by_more_than_half_its_length_is_flagged(factor):
    # The error is |1 - factor| of the slopes' length, compared with half of the longer of both.
    assert has_shattered_gradient(Scaled(factor), torch.rand(4, 1, 8, 8), coarse=False)


def test_a_constant_model_has_the_gradient_that_it_tells():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(net[1].weight)
    assert not has_shattered_gradient(net, torch.rand(4, 1, 8, 8), coarse=False)


def test_even_areas_tie_the_pools_of_an_honest_network():
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    nn.init.constant_(pooled[0].bias, 1.0)
    net, x = nn.Sequential(pooled, nn.Linear(16 * 196, 10)), torch.zeros(4, 1, 28, 28)
    assert _differs(net, 0.5 + x, ROUNDING)
    assert not has_shattered_gradient(net, x, coarse=False)


def test_a_model_that_fails_off_the_data_is_not_doubted():
    class Shy(nn.Module):
        def forward(self, x):
            raise ValueError("these are no digits")

    assert not has_shattered_gradient(Shy(), torch.rand(4, 1, 8, 8), coarse=False)


def test_the_published_table_is_of_this_gallery_and_misses_none():
    models = pd.read_csv(BOARD / "models.csv")
    lies = models[models["kind"] == "lie"].set_index("model")
    honest = models[models["kind"] == "honest"]
    assert set(lies.index) == set(LIARS)
    assert set(honest["model"]) == set(HONEST)
    assert len(lies) >= 16
    assert len(honest) >= 10
    assert all(lies["lie"] == [LIARS[name].__doc__.partition("\n")[0] for name in lies.index])
    assert not (lies["outcome"] == "missed").any()
    assert (honest["outcome"] == "silent").all()
    near = lies[lies["outcome"] == "near the truth"]
    assert not near.apply(misleads, axis=1).any()
    published = (BOARD / "alarms.csv").read_text()
    assert alarm_table(models).to_csv(index=False) == published
