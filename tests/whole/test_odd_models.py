"""Models that raise, cheat or answer oddly: a row of their own without figures, and every other row whole."""

from __future__ import annotations

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
