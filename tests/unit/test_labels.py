"""The labels of the images go with the evidence, from both verbs that ask."""

from __future__ import annotations

import pandas as pd
import torch
from torch import nn

import rstbench
from rstbench.cli.commands import main
from rstbench.data import load
from rstbench.evidence.manifest import Manifest

FACTORY = """
import torch
from torch import nn

def net(seed=0):
    torch.manual_seed(int(seed))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def test_evaluate_keeps_labels_and_tells_the_classes(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    rstbench.evaluate(
        {"net": net}, data="digits:test:30", threat="Linf:0.1", attacks="pgd:steps=1", out=tmp_path
    )
    labels = load("digits:test:30").labels.tolist()
    assert Manifest.load(tmp_path).labels == tuple(labels)
    frame = rstbench.read_table(tmp_path / "per_class.csv").query("attack == 'worst'")
    assert frame.set_index("class")["images"].to_dict() == pd.Series(labels).value_counts().to_dict()


def test_transfer_keeps_labels(tmp_path, capsys):
    (tmp_path / "nets.py").write_text(FACTORY)
    models = [f"file:{tmp_path / 'nets.py'}:net[seed={seed}]" for seed in (0, 1)]
    asked = ["--data", "digits:test:20", "--threat", "Linf:0.1", "--attack", "pgd:steps=1", "--quiet"]
    assert main(["transfer", *models, *asked, "--out", str(tmp_path / "out")]) == 0
    labels = load("digits:test:20").labels.tolist()
    assert Manifest.load(tmp_path / "out").labels == tuple(labels)
    # Without a leaderboard there is no table by class.
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["transfer.csv"]
