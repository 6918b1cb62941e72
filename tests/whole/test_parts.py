"""A study shared by machines: each answers its part into a folder, and `report --out` makes them one."""

from __future__ import annotations

import re
import shutil
import tomllib

import pandas as pd
import pytest

from rstbench.evidence.manifest import Manifest
from rstbench.evidence.merge import merge
from rstbench.evidence.part import Shards
from rstbench.evidence.trial import EXACT
from rstbench.reports.leaderboard import leaderboard
from rstbench.reports.lookup import Evidence
from rstbench.reports.tables import write
from rstbench.study.reading import parse_study
from rstbench.study.run import Options, run_study

STUDY = """
name = "s"
data = "digits:test"
threats = ["Linf:0.1", "Linf:0.2"]
attacks = ["pgd:steps=1"]
images = 20
transfer = true
switch = true
[[draw]]
name = "rst"
network = "conv2"
width = 0.1
remaining = [0.3, 0.6]
data = "digits:train:128"
epochs = 1
batch = 32
[[train]]
name = "dense"
network = "conv2"
width = 0.1
data = "digits:train:128"
epochs = 1
batch = 32
[[train]]
name = "ft"
from = "rst"
data = "digits:train:128"
epochs = 1
batch = 32
"""
HOW = ("--quiet", "--batch-size", "5", "--crafting", "exact", "--workers", "1")


def evaluate(out, only=(), shards="0/1"):
    """Answer a part of the study; without figures and a page, which would take most of the time."""
    options = Options(out, batch="5", crafting=EXACT, report=False, only=only, shards=Shards.parse(shards))
    outcome = run_study(parse_study(tomllib.loads(STUDY), "study"), options)
    assert outcome.faults == []
    return pd.read_csv(out / "leaderboard.csv")


def report(folders, out):
    """Merge folders and write the tables; returns what a person is told."""
    notes = merge(folders, out)
    write(Evidence.read(out), out)
    return notes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a machine that answered all of the study."""
    out = tmp_path_factory.mktemp("whole") / "whole"
    evaluate(out)
    return out


def tables(folder):
    """The CSV files without what a clock tells."""
    return {
        path.name: frame.drop(columns=[name for name in frame if "seconds" in name or "mib" in name])
        for path in sorted(folder.glob("*.csv"))
        for frame in [pd.read_csv(path, dtype=str)]
    }


def assert_same(one, other):
    assert tables(one).keys() == tables(other).keys()
    for name, frame in tables(one).items():
        pd.testing.assert_frame_equal(frame, tables(other)[name], obj=name)


def with_networks(folder, out):
    """A folder with what was drawn and trained already, as where it was copied to another machine."""
    for made in ("tickets", "checkpoints"):
        shutil.copytree(folder / made, out / made)
    return out


def test_parts_by_model_are_what_one_machine_answers(whole, tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    # A switch is right where its members are, and of these another machine tells.
    assert set(evaluate(a, ("switch-rst", "ft"))["model"]) == {"ft-0.3", "ft-0.6"}
    board = evaluate(b, ("dense", "rst-0.3"))
    assert set(board["model"]) == {"dense", "rst-0.3"}
    assert board["worst"].notna().all()
    evaluate(c, ("rst-0.6",))
    assert not list(c.glob("checkpoints/*.safetensors")), "made without need"
    missing = "none of these folders asks about ft-0.3, ft-0.6, switch-rst"
    assert report([c, b], tmp_path / "two") == [f"parts of a study are missing: {missing}"]
    assert report([tmp_path / "two", a], tmp_path / "all") == []
    assert_same(tmp_path / "all", whole)
    assert not {"only", "models", "shards"} & Manifest.load(tmp_path / "all").run.keys()


def test_parts_by_shard_are_what_one_machine_answers(whole, tmp_path, cli):
    parts = [with_networks(whole, tmp_path / f"part{index}") for index in range(3)]
    for index, part in enumerate(parts):  # of four shards
        assert len(evaluate(part, shards=f"{index}/3")) == 0, "an unfinished row looks finished"
    status = cli("status", parts[0]).stdout
    assert "part0: done" in status
    assert re.search(r"shards +(\d+) of \1 answered", status), status
    missing = "none of these folders has --shards 1/3"
    assert report([parts[2], parts[0]], tmp_path / "two") == [f"parts of a study are missing: {missing}"]
    assert len(leaderboard(Evidence.read(tmp_path / "two"))) == 0
    assert report([tmp_path / "two", parts[1]], tmp_path / "all") == []
    assert_same(tmp_path / "all", whole)


def test_what_fails_in_one_part_is_an_empty_row_of_the_whole_only(tmp_path, cli):
    (tmp_path / "m.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Good(nn.Module):\n"
        "    def forward(self, x):\n        return x.flatten(1)[:, :10] * 1.0\n"
        "class Bad(nn.Module):\n"
        "    def forward(self, x):\n        raise ValueError('no')\n"
    )
    asked = ("file:m.py:Good", "file:m.py:Bad", "--data", "digits:test:20", "--threat", "Linf:0.1")
    asked = (*asked, "--attack", "pgd:steps=2", *HOW)
    assert cli("evaluate", *asked, "--out", "whole").returncode == 1
    for index in (0, 1):
        done = cli("evaluate", *asked, "--out", f"part{index}", "--shards", f"{index}/2")
        assert done.returncode == 1
        assert len(pd.read_csv(tmp_path / f"part{index}" / "leaderboard.csv")) == 0
    cli("report", "part0", "part1", "--out", "all")
    assert_same(tmp_path / "all", tmp_path / "whole")
    assert cli("evaluate", *asked, "--out", "good", "--only", "file:m.py:Good").returncode == 0


def test_parts_of_a_transfer_matrix(whole, tmp_path, cli):
    tickets = [f"ticket:{path}" for path in sorted(whole.glob("tickets/*.safetensors"))]
    asked = ("transfer", *tickets, "--attack", "pgd:steps=2", "--data", "digits:test:20", *HOW)
    assert cli(*asked, "--out", "whole").returncode == 0
    for number, ticket in enumerate(tickets):
        assert cli(*asked, "--out", f"part{number}", "--only", ticket).returncode == 0
    assert cli("report", "part1", "part0", "--out", "all").returncode == 0
    assert_same(tmp_path / "all", tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shards", "4/4"), "--shards reads I/N"),
        (("--shards", "1"), "--shards reads I/N"),
        (("--shards", "0/5"), "20 images are 4 shards of 5, too few for all parts"),
        (("--shards", "0/2", "--save-adversarials"), "does not go with --shards"),
        (("--only", "rst-0.4"), "no model of this study named 'rst-0.4'; did you mean 'rst-0.6'?"),
    ],
)
def test_a_part_that_cannot_be_is_refused(tmp_path, cli, options, message):
    (tmp_path / "s.toml").write_text(STUDY)
    done = cli("evaluate", "s.toml", "--out", "out", *HOW, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out" / "study.toml").exists()
