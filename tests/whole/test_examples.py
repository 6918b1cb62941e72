"""The first images of each model, kept while they are crafted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import rstbench
from rstbench.evaluation.adversarials import ExampleWriter
from rstbench.evidence.examples import Examples
from rstbench.reports.lookup import Evidence

ASKED = {"data": "digits:test:12", "threat": "Linf:0.1", "attacks": ["pgd:steps=3"]}


def nets():
    torch.manual_seed(0)
    return {name: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval() for name in ("one", "two")}


def run(folder, batch=5):
    """Two linear models; spans of five images, so that the eight come from two of them."""
    rstbench.evaluate(nets(), out=folder, batch_size=batch, **ASKED)
    return Examples.read(folder)


def test_what_is_kept_is_what_was_judged(tmp_path):
    found, evidence = run(tmp_path), Evidence.read(tmp_path)
    x, y = found.images(evidence.manifest.run["data_digest"])
    images, labels = rstbench.load_data("digits:test:8").at(slice(None))
    assert np.array_equal(x, images.numpy())
    assert np.array_equal(y, labels.numpy())
    for row, net in zip(evidence.manifest.rows, nets().values(), strict=True):
        for attack in ("clean", "pgd:steps=3"):
            crafting = (row.model, attack, row.threat, row.seed)
            seen = found.predicted(crafting)
            shown = x if attack == "clean" else found.crafted(crafting)
            assert shown.dtype == np.float32
            assert np.abs(shown - x).max() <= 0.1 + 1e-6
            assert (shown != x).any() == (attack != "clean")
            assert np.array_equal(seen, net(torch.from_numpy(shown)).argmax(1).numpy())
            # The bits of the evidence say the same of the same images.
            bits = evidence.bits(row.model, row.model, attack, row.threat, row.seed)
            assert np.array_equal(seen == y, bits[:8] == 1)


def test_a_killed_run_loses_no_examples(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(ExampleWriter, "collect", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    assert not Examples.read(tmp_path / "killed").arrays
    again = run(tmp_path / "killed")  # nothing is crafted any more
    assert again.arrays.keys() == whole.arrays.keys()
    assert all(np.array_equal(again.arrays[name], whole.arrays[name]) for name in whole.arrays)


def test_what_was_crafted_without_examples_is_absent(tmp_path):
    run(tmp_path)
    (tmp_path / "examples.npz").unlink()
    assert not run(tmp_path).arrays  # nothing is crafted any more
    rstbench.evaluate(
        nets(), out=tmp_path, batch_size=5, **ASKED | {"attacks": ["pgd:steps=3", "apgd:steps=2"]}
    )
    names = {name.rpartition("/")[0] for name in Examples.read(tmp_path).arrays}
    models = [row.model for row in Evidence.read(tmp_path).manifest.rows]
    digest = Evidence.read(tmp_path).manifest.run["data_digest"]
    assert names == {digest, *(f"{model}/apgd:steps=2/Linf:0.1/0" for model in models)}
