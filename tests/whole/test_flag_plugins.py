"""An attack of another package with a flag of its own, from the attack to RobustBench's entry."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

FLAGS = """
from rstbench.flags import Flag, register_flag

BLIND = register_flag(Flag("blind-spot", "Half of the image was never looked at.", doubts_autoattack=True))
"""
ATTACK = """
from dataclasses import dataclass

from blind_flags import BLIND
from rstbench.attacks.spec import Crafted

@dataclass(frozen=True)
class Blind:
    def __call__(self, model, x, y, threat, generator):
        return Crafted(x, {}, (BLIND.name, "nowhere-registered"))
"""
MODEL = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
ENTRY_POINTS = """
[rstbench.attacks]
pgd-mine = blind_attack:Blind
[rstbench.flags]
blind-spot = blind_flags:BLIND
"""


@pytest.fixture
def plugin(tmp_path):
    """The environment in which the package is installed."""
    site = tmp_path / "site"
    info = site / "blind-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blind\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "blind_flags.py").write_text(FLAGS)
    (site / "blind_attack.py").write_text(ATTACK)
    (tmp_path / "m.py").write_text(MODEL)
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    return {"PYTHONPATH": os.pathsep.join([str(site), root]), "OMP_NUM_THREADS": "1"}


def test_a_plugins_flag_is_stored_explained_and_counted(cli, tmp_path, plugin):
    attacks = ["--attack", "pgd-mine", "--attack", "autoattack:attacks=apgd-ce", "--attack", "autoattack"]
    asked = ["--data", "digits:test:10", "--threat", "Linf:0.1", *attacks, "--batch-size", "10"]
    done = cli("evaluate", "file:m.py:net", *asked, "--out", "out", env=plugin)
    assert done.returncode == 0, done.stderr
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    flags = set(board["flags"][0].split())
    assert {"blind-spot", "nowhere-registered"} <= flags
    # It leaves every image as it is, and is no PGD that AutoAttack could lose to.
    assert board["pgd-mine"][0] == board["clean"][0]
    assert "weaker-than-pgd" not in flags
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Half of the image was never looked at." in page
    assert page.count("Raised by an attack of another package") == 1
    # `report` loads no attack, and says the same.
    again = cli("report", "out", "--format", "robustbench", env=plugin)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "index.html").read_text() == page
    (entry,) = (tmp_path / "out" / "robustbench").rglob("*.json")
    assert json.loads(entry.read_text())["unreliable"] is True
