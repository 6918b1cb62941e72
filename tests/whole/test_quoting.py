"""Quoted figures and RobustBench's entries from the command line, on the committed study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

DIGITS = Path(__file__).parent.parent.parent / "leaderboards" / "digits"
QUOTED = "model,data,threat,attack,clean,robust,source\nx,digits,Linf:0.1,pgd,0.9,0.5,mine\n"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(DIGITS, folder, ignore=shutil.ignore_patterns("tickets", "checkpoints", ".*"))
    return folder


def test_report_quotes_and_exports(cli, run, tmp_path):
    (tmp_path / "mine.csv").write_text(QUOTED)
    board = (run / "leaderboard.csv").read_bytes()
    done = cli("report", run, "--published", "mine.csv", "--format", "robustbench")
    assert (done.returncode, done.stderr) == (0, "")
    quoted = pd.read_csv(run / "published.csv")
    assert quoted[["model", "kind", "robust"]].to_numpy().tolist() == [["x", "published", 0.5]]
    assert (run / "leaderboard.csv").read_bytes() == board
    entry = json.loads((run / "robustbench" / "digits" / "Linf" / "rst-0.1.json").read_text())
    assert (entry["clean_acc"], entry["autoattack_acc"]) == ("99.00", "80.00")
    # What one run measured is what another quotes.
    done = cli("report", run, "--published", run / "robustbench")
    assert done.returncode == 0
    assert len(pd.read_csv(run / "published.csv")) == 8
    # Without them the file goes: nothing else is published on digits.
    assert cli("report", run).returncode == 0
    assert not (run / "published.csv").exists()


def test_a_wrong_file_changes_nothing(cli, run, tmp_path):
    (tmp_path / "mine.csv").write_text(QUOTED.replace("0.5", "50"))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = cli("report", run, "--published", "mine.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rstbench: mine.csv, line 2: robust is a fraction from 0 to 1, got '50'\n"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_status_of_a_finished_study(cli, run):
    done = cli("status", run)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [f"{run}: done", "  shards    51 of 51 answered"]
