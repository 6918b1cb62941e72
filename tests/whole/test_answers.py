"""The figures of leaderboards/README.md follow from the evidence beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent.parent
BOARDS = ROOT / "leaderboards"


def test_the_answers_are_what_their_command_prints():
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "answers.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (BOARDS / "answers.csv").read_text()


def test_each_figure_of_the_text_is_a_line_of_the_table():
    text = (BOARDS / "README.md").read_text()
    answers = text.partition("## Five answers")[2].partition("\n## ")[0]
    table = pd.read_csv(BOARDS / "answers.csv")
    known = {f"{abs(value):.1f}" for value in table[["mean", "low", "high"]].to_numpy().ravel()}
    # A threat's radius is no figure.
    quoted = re.findall(r"\d+\.\d(?!\d)", re.sub(r"(Linf|At) 0\.\d+", "", answers))
    assert len(quoted) > 60
    assert [figure for figure in quoted if figure not in known] == []
