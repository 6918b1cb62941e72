"""The command line: verbs, exit statuses, and one clear line for what is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from rstbench.tickets.ticket import Ticket

MODELS = """
import torch
from torch import nn


def good():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def shape():
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 10))


class NaN(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] * float("nan")


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("two\\nlines")


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = good()

    def forward(self, x):
        return self.net(x).softmax(1)


class Noisy(Softmax):
    def forward(self, x):
        return self.net(x) + torch.randn(1)


class Square(nn.Module):
    # Non-finite only under attack: away from the real pixels' sixteenths.
    def forward(self, x):
        off = ((x * 16).round() / 16 - x).abs().flatten(1).amax(1, keepdim=True) > 1e-3
        return torch.where(off, float("nan"), 1.0) * (x.flatten(1)[:, :10] * 1.0)
"""
QUICK = ["--data", "digits:test:20", "--threat", "Linf:0.1", "--quiet"]


@pytest.fixture
def models(tmp_path):
    (tmp_path / "m.py").write_text(MODELS)
    return tmp_path


def board(folder):
    return pd.read_csv(folder / "runs" / "adhoc" / "leaderboard.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute"], "invalid choice"),
        (["evaluate", "digitz"], "did you mean 'digits'"),
        (["evaluate", "--atack", "pgd"], "unrecognized arguments: --atack"),
        (["evaluate", "none.toml"], "no study file none.toml"),
        (["evaluate", "digits", "ticket:a"], "one study at a time"),
        (["evaluate", "ticket:none.safetensors"], "no ticket file none.safetensors"),
        (["evaluate", "file:m.py:god", *QUICK], "no 'god'"),
        (["evaluate", "fiel:m.py:good", *QUICK], "did you mean 'file'"),
        (["evaluate", "file:m.py:good", "--quiet"], "--threat is not given"),
        (["evaluate", "file:m.py:good", "--threat", "Linf:0.1"], "--data is not given"),
        (["evaluate", "file:m.py:good", *QUICK, "--attack", "ppgd"], "did you mean 'pgd'"),
        (["evaluate", "file:m.py:good", *QUICK, "--attack", "pgd:steps=x"], "pgd:steps wants a whole number"),
        (["evaluate", "file:m.py:good", *QUICK, "--threat", "linf 8"], "a threat must read 'Linf:8/255'"),
        (["evaluate", "file:m.py:good", "--threat", "Linf:0.1", "--data", "digist"], "did you mean 'digits'"),
        (["evaluate", "file:m.py:good", "--threat", "Linf:0.1", "--data", "npz:e.npz"], "are empty"),
        (["evaluate", "file:m.py:good", *QUICK, "--device", "gpu"], "--device reads auto, cpu, cuda"),
        (["evaluate", "file:m.py:good", *QUICK, "--batch-size", "0"], "--batch-size reads auto or a number"),
        (["evaluate", "file:m.py:good", *QUICK, "--limit", "0"], "wants a whole number from 1"),
        (["evaluate", "bad.toml"], "did you mean 'attacks'"),
        (["evaluate", "worse.toml"], "is no TOML"),
        (["draw", "--data", "digits", "--remaining", "1.5", "--out", "t"], "remaining is the kept fraction"),
        (["draw", "--data", "digits", "--remaining", "0.1"], "required: --out"),
        (["draw", "--data", "digits", "--remaining", "0.1", "--network", "conv5", "--out", "t"], "conv"),
        (["draw", "--data", "digits", "--remaining", "0.1,0.10", "--out", "t"], "named twice"),
        (
            ["draw", "--data", "digits", "--remaining", "0.1", "--recipe", "x", "--out", "t"],
            "no recipe named",
        ),
        (
            ["draw", "--data", "digits", "--remaining", "0.1", "--init", "x", "--out", "t"],
            "no init named 'x'",
        ),
        (["draw", "--data", "digits", "--remaining", "0.1", "--width", "0", "--out", "t"], "width"),
        (["draw", "--data", "digits:test", "--remaining", "0.1", "--out", "t"], "training images"),
        (
            ["draw", "--data", "mnist", "--remaining", "0.1", "--out", "t", "--data-root", "."],
            "RSTBENCH_DATA",
        ),
        (["draw", "--data", "digits", "--remaining", "0.4", "--pattern", "2:4", "--out", "t"], "keeps 0.5"),
        (
            ["draw", "--data", "digits", "--remaining", "0.4", "--pattern", "filter", "--out", "t"],
            "delete classes",
        ),
        (
            [
                "draw",
                "--data",
                "digits",
                "--remaining",
                "0.4",
                "--adversary",
                "free:restarts=2",
                "--out",
                "t",
            ],
            "free",
        ),
        (["train", "--from", "none.safetensors", "--out", "t"], "no ticket file"),
        (["train", "--weights", "inherit", "--out", "t"], "goes with a ticket"),
        (["export", "none.safetensors", "--out", "x.pt"], "no ticket file"),
        (["report", "nowhere"], "no folder nowhere"),
        (["transfer", "file:m.py:good", "--attack", "autoattack", *QUICK], "makes no transfer images"),
        (["list", "modles"], "did you mean 'models'"),
    ],
)
def test_a_wrong_request_is_one_line_and_two(cli, models, arguments, message):
    (models / "bad.toml").write_text('data = "digits"\nthreats = ["Linf:0.1"]\natacks = ["pgd"]\n')
    (models / "worse.toml").write_text("data = [")
    np.savez(models / "e.npz", x=np.zeros((0, 1, 8, 8)), y=np.zeros(0, int))
    before = sorted(models.rglob("*"))
    done = cli(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("rstbench: ")
    assert done.stdout == ""
    assert [p for p in sorted(models.rglob("*")) if "__pycache__" not in str(p)] == before


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("classes", "has 7 classes, the data 10"),
        ("shape", "raised on images of shape (1, 8, 8)"),
        ("NaN", "non-finite logits on clean images"),
        ("Raises", "RuntimeError: two lines"),
    ],
)
def test_a_model_that_fails_leaves_the_rest(cli, models, factory, message):
    done = cli("evaluate", f"file:m.py:{factory}", "file:m.py:good", *QUICK, "--attack", "pgd:steps=2")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    table = board(models)
    assert list(table["model"]) == ["file:m.py:good", f"file:m.py:{factory}"]
    assert list(table["clean"].notna()) == list(table["worst"].notna()) == [True, False]


def test_flags(cli, models):
    names = ["Softmax", "Noisy", "Square", "good"]
    references = [f"file:m.py:{name}" for name in names]
    done = cli("evaluate", *references, *QUICK, "--attack", "pgd:steps=2")
    assert done.returncode == 0, done.stderr
    frame = board(models).set_index("model")
    flags = {name: frame.loc[f"file:m.py:{name}", "flags"].split() for name in names}
    assert "probabilities-not-logits" in flags["Softmax"]
    assert "random-output" in flags["Noisy"]
    assert "non-finite-logits" in flags["Square"]
    # The argmax of NaN is class 0: it must not look robust.
    assert frame.loc["file:m.py:Square", "worst"] == 0
    assert not {"probabilities-not-logits", "random-output", "non-finite-logits"} & set(flags["good"])


def test_debug_shows_the_traceback(cli):
    done = cli("evaluate", "digitz", env={"RSTBENCH_DEBUG": "1"})
    assert "Traceback" in done.stderr


def test_draw_export_train_transfer(cli, tmp_path):
    common = [
        "--network",
        "conv2",
        "--width",
        "0.1",
        "--data",
        "digits:train:128",
        "--epochs",
        "1",
        "--batch",
        "32",
    ]
    drawn = cli("draw", *common, "--remaining", "0.3,0.6", "--out", "t", "--quiet")
    assert drawn.returncode == 0, drawn.stderr
    files = ["t/conv2-0.3.safetensors", "t/conv2-0.6.safetensors"]
    assert [line.split("\t")[0] for line in drawn.stdout.splitlines()] == files
    history = pd.read_csv(tmp_path / "t" / "history.csv")
    assert list(history["name"]) == ["conv2-0.3", "conv2-0.6"]
    assert Ticket.load(tmp_path / files[0]).recipe.threat == "Linf:0.1"

    # The files exist: nothing is drawn again; another recipe does not write over them.
    again = cli("draw", *common, "--remaining", "0.3,0.6", "--out", "t", "--quiet")
    assert again.stdout == drawn.stdout
    assert cli("draw", *common, "--remaining", "0.3", "--seed", "1", "--out", "t", "--quiet").returncode == 2

    exported = cli("export", files[0], "--out", "plain.pt")
    assert exported.stdout.splitlines() == ["plain.pt", "plain_network.py", "plain.pt.json"]
    assert torch.load(tmp_path / "plain.pt", weights_only=True)

    tuned = cli("train", "--from", files[0], "--data", "digits:train:128", "--epochs", "1", "--batch", "32",
                "--out", "c", "--quiet")  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    dense = cli("train", *common, "--adversary", "none", "--out", "c", "--quiet")
    assert dense.returncode == 0, dense.stderr
    checkpoints = ["c/conv2-0.3-inherit.safetensors", "c/conv2.safetensors"]

    crossed = cli(
        "transfer", *(f"ticket:{f}" for f in files), "--attack", "pgd:steps=2", "--limit", "20", "--quiet"
    )
    assert crossed.returncode == 0, crossed.stderr
    matrix = pd.read_csv(tmp_path / "runs" / "transfer" / "transfer.csv")
    assert len(matrix) == 4
    assert "rows: crafted against" in crossed.stdout

    # Data and threat come from the recipes; the switch is measured by its members.
    switch = "switch:" + "+".join(files)
    arguments = [f"ticket:{files[0]}", *(f"checkpoint:{c}" for c in checkpoints), switch]
    done = cli("evaluate", *arguments, "--attack", "pgd:steps=2", "--limit", "20", "--quiet")
    assert done.returncode == 0, done.stderr
    frame = board(tmp_path)
    assert set(frame["kind"]) == {"ticket", "trained", "switch"}
    assert frame["threat"].unique().tolist() == ["Linf:0.1"]
    assert frame["data"].unique().tolist() == ["digits:test"]
    rungs = pd.read_csv(tmp_path / "runs" / "adhoc" / "switch.csv")["rung"].tolist()
    assert rungs[:5] == ["T0", "T1", "T2", "minimum", "mean-member"]
    assert rungs[5].startswith("best-member conv2-0.")
    assert len(rungs) == 6  # the dense network was not trained against an adversary


def test_the_same_model_twice_is_listed_once(cli, models):
    (models / "sub").mkdir()
    done = cli(
        "evaluate", "file:m.py:good", "file:./sub/../m.py:good", *QUICK[:-1], "--attack", "pgd:steps=2"
    )
    assert "is the same model as" in done.stderr
    assert len(board(models)) == 1
    quiet = cli("evaluate", "file:m.py:good", "file:./sub/../m.py:good", *QUICK, "--attack", "pgd:steps=2")
    assert len(quiet.stderr.splitlines()) == 1
    assert "is the same model as" in quiet.stderr


def test_progress_lines_where_there_is_no_terminal(cli, models):
    done = cli("evaluate", "file:m.py:good", *QUICK[:-1], "--attack", "pgd:steps=2")
    assert "file:m.py:good pgd:steps=2 Linf:0.1: 100/100 images" in done.stderr
    assert "robust" in done.stderr
    assert cli("evaluate", "file:m.py:good", *QUICK, "--attack", "pgd:steps=3").stderr == ""


def test_two_spellings_of_one_question_are_one(cli, models):
    (models / "sub").mkdir()
    common = ["--data", "digits:test:20", "--quiet", "--out", "o"]
    first = cli(
        "evaluate", "file:m.py:good", "--threat", "Linf:1/10", "--attack", "pgd:restarts=1,steps=2", *common
    )
    assert first.returncode == 0, first.stderr
    evidence = {path.name: path.stat().st_mtime_ns for path in (models / "o" / "results").iterdir()}
    again = cli(
        "evaluate", "file:sub/../m.py:good", "--threat", "Linf:0.1", "--attack", "pgd:steps=2", *common
    )
    assert again.returncode == 0, again.stderr
    assert evidence == {path.name: path.stat().st_mtime_ns for path in (models / "o" / "results").iterdir()}
    # The table names the model as it was asked for this time.
    assert pd.read_csv(models / "o" / "leaderboard.csv")["model"].tolist() == ["file:sub/../m.py:good"]
    cli("evaluate", "file:m.py:good", "--threat", "Linf:0.1", "--attack", "pgd:steps=3", *common)
    assert len(list((models / "o" / "results").iterdir())) == len(evidence) + 1
