"""Models that raise, cheat or answer oddly: a row of their own without figures, and every other row whole."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.whole.odd_networks import ODD

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
