"""Models handed over in Python, to workers, under two names, or beside one that fails."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

import rstbench
from rstbench.errors import ModelFault
from tests.whole.odd_networks import DOUBTFUL, ODD

ASKED = {"data": "digits:test:100", "threat": "Linf:0.05", "attacks": ["pgd:steps=2"]}


SENT = """
import os
import torch
from torch import nn
from doubtful import fitted


class Thin(nn.Module):
    keep = 64

    def __init__(self):
        super().__init__()
        self.net = fitted()

    def forward(self, x):
        return self.net((x.flatten(1) * (torch.arange(64) < type(self).keep)).view(x.shape))


def thin(keep=64):
    Thin.keep = keep
    return Thin()


class Forgetful(Thin):
    def __getstate__(self):
        return {**super().__getstate__(), "net": None}
"""


@pytest.mark.parametrize("model", ["thin[keep=24]", "Forgetful"])
def test_workers_attack_the_model_that_is_judged(cli, tmp_path, model):
    """A copy elsewhere has neither what a factory set on a class nor what `__getstate__` leaves out."""
    (tmp_path / "doubtful.py").write_text(DOUBTFUL)
    (tmp_path / "sent.py").write_text(SENT)
    rows = []
    for workers in (1, 2):
        done = cli("evaluate", f"python:sent:{model}", "--data", "digits:test:100", "--threat", "Linf:0.05",
                   "--attack", "pgd:steps=2", "--attack", "apgd:steps=2", "--batch-size", "50",
                   "--crafting", "exact", "--workers", workers, "--out", f"o{workers}",
                   fresh=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows.append(pd.read_csv(tmp_path / f"o{workers}" / "leaderboard.csv").drop(columns="seconds"))
    assert rows[0].equals(rows[1])


def test_two_names_of_one_model_have_a_row_each():
    torch.manual_seed(0)
    net = Good()
    table = rstbench.evaluate({"a": net, "b": net}, **ASKED).set_index("model")
    assert set(table.index) == {"a", "b"}
    assert table.loc["a", "pgd:steps=2"] == table.loc["b", "pgd:steps=2"]
    members = {name: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for name in "ab"}
    table = rstbench.evaluate({"switch": rstbench.Switch(list(members.values())), **members}, **ASKED)
    assert set(table["model"]) == {"switch", "a", "b"}


class Bad(nn.Module):
    def forward(self, x):
        raise ValueError("not today")


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_evaluate_in_python_returns_what_it_has():
    with pytest.warns(RuntimeWarning, match=r"bad raised on images .*not today"):
        table = rstbench.evaluate({"bad": Bad(), "good": Good()}, **ASKED)
    assert len(table.attrs["faults"]) == 1
    assert "not today" in table.attrs["faults"][0]
    table = table.set_index("model")
    assert table.loc["good", ["clean", "worst"]].notna().all()
    assert table.loc["bad", ["clean", "worst"]].isna().all()
    with pytest.raises(ModelFault, match="not today"):
        rstbench.evaluate({"bad": Bad()}, **ASKED)
    assert rstbench.evaluate({"good": Good()}, **ASKED).attrs["faults"] == []


def test_a_judge_that_fails_costs_no_other_model_its_row(cli, tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    models = ["file:odd.py:Linear", "file:odd.py:Shy"]
    done = cli("transfer", *models, "--data", "digits:test:40", "--threat", "Linf:0.05", "--out", "o",
               "--attack", "pgd:steps=1")  # fmt: skip
    assert done.returncode == 1
    table = pd.read_csv(tmp_path / "o" / "transfer.csv")
    assert set(zip(table["source"], table["target"], strict=True)) == {(models[0], models[0])}
    with pytest.raises(ModelFault, match="not today"):
        rstbench.benchmark(Bad(), 20, "digits", "Linf", eps=0.1)
