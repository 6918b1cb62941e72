"""Models that raise, cheat or answer oddly: a row of their own without figures, and every other row whole."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import torch
from torch import nn

import rstbench
from rstbench.errors import ModelFault

ASKED = {"data": "digits:test:100", "threat": "Linf:0.05", "attacks": ["pgd:steps=2"]}
ODD = """
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fc = nn.Linear(64, 10)
        self.fc.weight.data = torch.randn(10, 64, generator=generator)

    def forward(self, x):
        return self.fc(x.flatten(1))

class Text(Linear):
    def __repr__(self):
        raise KeyError("no text")

class Mode(Linear):
    def train(self, mode=True):
        raise RuntimeError("no mode")

class Place(Linear):
    def _apply(self, function, recurse=True):
        raise RuntimeError("stays where it is")

class Leaves(Linear):
    def forward(self, x):
        raise SystemExit(3)

class Deep(Linear):
    def forward(self, x):
        return self(x)

class Pair(Linear):
    def forward(self, x):
        return super().forward(x), x

class Sparse(Linear):
    def forward(self, x):
        return super().forward(x).to_sparse()

class Complex(Linear):
    def forward(self, x):
        return super().forward(x) + 1j

class Lazy(Linear):
    def __init__(self):
        super().__init__()
        self.more = nn.LazyLinear(3)

class Empty(Linear):
    def __init__(self):
        super().__init__()
        self.to("meta")

class Late(Linear):
    def forward(self, x):
        self.late = nn.Linear(64, 10)
        return self.late(x.flatten(1))

class Learning(Linear):
    def forward(self, x):
        self.fc.weight.data += 1
        return super().forward(x)

class Shy(Linear):
    def forward(self, x):
        if float(((x * 16).round() / 16 - x).detach().abs().max()) > 1e-3:
            raise ValueError("these are no digits")
        return super().forward(x)
"""
MESSAGES = {
    "Text": "cannot be read: 'no text'",
    "Mode": "cannot be put into eval mode on cpu: RuntimeError: no mode",
    "Place": "stays where it is",
    "Leaves": "raised on images of shape (1, 8, 8): SystemExit: 3",
    "Deep": "RecursionError",
    "Pair": "wanted logits of shape (100, 10), got tuple",
    "Sparse": "raised",
    "Complex": "raised",
    "Lazy": "cannot be read",
    "Empty": "cannot be read: its weights are on the meta device",
    "Late": "new weights when it was asked (late.weight)",
    "Learning": "changed the weights of the model",
}


@pytest.mark.parametrize("name", sorted({*MESSAGES, "Shy"}))
def test_one_odd_model_costs_its_own_row(cli, tmp_path, name):
    (tmp_path / "odd.py").write_text(ODD)
    models = [f"file:odd.py:{name}", "file:odd.py:Linear"]
    done = cli("evaluate", *models, "--data", "digits:test:100", "--threat", "Linf:0.05",
               "--attack", "pgd:steps=2", "--out", "out", "--quiet")  # fmt: skip
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("rstbench: ")]
    assert len(said) == 1, done.stderr
    assert name in said[0]
    assert MESSAGES.get(name, "these are no digits") in said[0]
    assert "Traceback" not in done.stderr
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("model")
    assert list(table.index) == [f"file:odd.py:{one}" for one in ("Linear", name)]
    assert table.loc[models[1], ["clean", "pgd:steps=2", "worst"]].notna().all()
    assert table.loc[models[0], ["rank", "pgd:steps=2", "worst"]].isna().all()
    assert pd.isna(table.loc[models[0], "clean"]) == (name != "Shy")
    assert (tmp_path / "out" / "index.html").exists()


DOUBTFUL = """
import torch
from torch import nn
import rstbench


def fitted():
    # Least squares on the training images: the same everywhere.
    x, y = rstbench.load_data("digits:train").at(slice(None))
    flat = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1).double()
    target = nn.functional.one_hot(y, 10).double()
    solution = torch.linalg.solve(flat.T @ flat + 0.1 * torch.eye(65).double(), flat.T @ target).float()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net[1].weight.data, net[1].bias.data = solution[:-1].T.contiguous() * 10, solution[-1] * 10
    return net


class Other(nn.Module):
    # Wants other pixels than [0, 1]: (x - mean) / std.
    def __init__(self, mean=0.0, std=1.0):
        super().__init__()
        self.net, self.mean, self.std = fitted(), mean, std

    def forward(self, x):
        return self.net(x * self.std + self.mean)


class Colour(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.net = Other(**settings)

    def forward(self, x):
        return self.net(x.mean(1, keepdim=True))


class Stateless(nn.Module):
    # Batch norm that uses the batch's own statistics.
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), fitted()[1])

    def forward(self, x):
        return self.net(x)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted()

    def forward(self, x):
        return self.net(x - 0.3 * x.mean(0, keepdim=True))


class Placed(nn.Module):
    # Answers by the place of an image in its batch.
    def __init__(self, period=5):
        super().__init__()
        self.net, self.period = fitted(), period

    def forward(self, x):
        return self.net(x) * (1 - 0.2 * (torch.arange(len(x)) % self.period))[:, None]


class Began(nn.Module):
    # Normalises by the first batch that it sees.
    def __init__(self):
        super().__init__()
        self.net, self.mean = fitted(), None

    def forward(self, x):
        if self.mean is None:
            self.mean = x.mean(0, keepdim=True).detach()
        return self.net(x - 0.3 * self.mean)


class Together(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted()

    def forward(self, x):
        if len(x) < 2:
            raise ValueError("two images at least")
        return self.net(x)


class Served(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted()

    @torch.inference_mode()
    def forward(self, x):
        return self.net(x)


class Detached(Served):
    def forward(self, x):
        return self.net(x.detach())


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted().to(torch.bfloat16)

    def forward(self, x):
        return self.net(x.to(torch.bfloat16))
"""


@pytest.fixture
def flags_of(cli, tmp_path):
    def run(model, *options):
        (tmp_path / "doubtful.py").write_text(DOUBTFUL)
        given = {"--data": "digits:test:100", "--threat": "Linf:0.05", "--attack": "pgd:steps=1"}
        given |= {"--out": "o"} | dict(zip(options[::2], options[1::2], strict=True))
        asked = [part for pair in given.items() for part in pair]
        done = cli("evaluate", f"file:doubtful.py:{model}", *asked)
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(tmp_path / "o" / "leaderboard.csv", keep_default_na=False)
        return set(table["flags"][0].split()), done.stderr

    return run


@pytest.mark.parametrize(
    ("model", "batch"),
    [("Stateless", "100"), ("Stateless", "4"), ("Centred", "100"), ("Centred", "4"), ("Centred", "1")],
)
def test_answers_that_hang_on_the_batch_are_flagged(flags_of, model, batch):
    flags, _ = flags_of(model, "--batch-size", batch, "--data", "digits:test:8")
    assert "batch-dependent" in flags


@pytest.mark.parametrize("model", ["Placed", "Placed[period=2]", "Placed[period=25]", "Began"])
@pytest.mark.parametrize("batch", ["100", "10"])
def test_answers_that_hang_on_the_place_or_on_the_first_batch_are_flagged(flags_of, model, batch):
    assert "batch-dependent" in flags_of(model, "--batch-size", batch)[0]


def test_one_image_is_no_reason_for_doubt(flags_of):
    for first in range(2):
        flags, _ = flags_of(
            "Other[mean=0.14,std=0.86]", "--batch-size", "1", "--data", f"digits:test:{first + 1}"
        )
        assert "normalisation-doubtful" not in flags


def test_a_model_that_takes_no_single_image_is_flagged(flags_of):
    assert "batch-dependent" in flags_of("Together")[0]


@pytest.mark.parametrize("model", ["fitted", "Half"])
@pytest.mark.parametrize("batch", ["100", "1"])
def test_honest_models_do_not_hang_on_the_batch(flags_of, model, batch):
    flags, said = flags_of(model, "--batch-size", batch, "--data", "digits:test:20")
    assert "batch-dependent" not in flags
    assert "as it stands" not in said


@pytest.mark.parametrize(
    "pixels", ["mean=0.0,std=0.00392156862745098", "mean=0.5,std=0.5", "mean=0.1307,std=0.3081"]
)
def test_a_model_of_other_pixels_is_flagged(flags_of, pixels):
    assert "normalisation-doubtful" in flags_of(f"Other[{pixels}]")[0]


@pytest.mark.parametrize("pixels", ["mean=0.0,std=0.00392156862745098", "mean=0.5,std=0.5"])
def test_a_model_of_other_pixels_is_flagged_on_colour_images(flags_of, tmp_path, pixels):
    import numpy as np

    x, y = rstbench.load_data("digits:test:100").at(slice(None))
    np.savez(tmp_path / "colour.npz", x=x.expand(-1, 3, -1, -1).numpy(), y=y.numpy())
    assert "normalisation-doubtful" in flags_of(f"Colour[{pixels}]", "--data", "npz:colour.npz")[0]


def test_a_better_normalisation_below_the_alarm_is_told_with_both_figures(flags_of):
    flags, said = flags_of("Other[mean=0.14,std=0.86]", "--data", "digits:test:450")
    assert "normalisation-doubtful" not in flags
    (line,) = [line for line in said.splitlines() if "as it stands" in line]
    own, other = (float(part) for part in re.findall(r"on ([\d.]+) %", line))
    assert 2 < other - own < 10
    assert "of 450 clean images" in line
    assert "[normalize=mnist]" in line


@pytest.mark.parametrize("model", ["Served", "Detached"])
def test_a_model_without_gradient_is_told_what_helps(cli, tmp_path, model):
    (tmp_path / "doubtful.py").write_text(DOUBTFUL)
    done = cli("evaluate", f"file:doubtful.py:{model}", "--data", "digits:test:4", "--threat", "Linf:0.5",
               "--out", "o", "--attack", "pgd:steps=1", "--attack", "autoattack:attacks=square")  # fmt: skip
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("rstbench: ")]
    assert "lets no gradient through; an attack that needs none: autoattack:attacks=square" in said
    table = pd.read_csv(tmp_path / "o" / "leaderboard.csv")
    assert table["clean"][0] > 0.5
    assert table["autoattack:attacks=square"][0] == 0
    assert table["pgd:steps=1"].isna().all()


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
                   "--workers", workers, "--out", f"o{workers}", fresh=True)  # fmt: skip
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
