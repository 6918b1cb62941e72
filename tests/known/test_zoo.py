"""Measured rows as RobustBench's entries, worked out by hand, and back again."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial
from rstbench.reports.lookup import Evidence
from rstbench.reports.published import comparable, gather
from rstbench.reports.robustbench import entries, write_entries
from rstbench.reports.tables import write

NEAR, FAR, PGD, AUTO = "Linf:8/255", "Linf:16/255", "pgd", "autoattack"
CARDS = {
    "a": ModelInfo("rst-0.1", "ticket", "rst", "resnet18", 0.1, 10, 100),
    "b": ModelInfo("../../evil name", "external"),
    "c": ModelInfo("..", "external"),
    "d": ModelInfo("RST-0.1", "external"),
    "s": ModelInfo("switch", "switch", "rst", "resnet18", members=("a", "b"), weights=(0.5, 0.5)),
}
CLEAN = {"a": "11101110", "b": "11111111", "c": "11111111", "d": "11111111"}
ROBUST = {
    ("a", NEAR, PGD): "11000000",
    ("a", NEAR, AUTO): "10100000",
    ("b", NEAR, PGD): "11110000",
    ("b", NEAR, AUTO): "11100000",
    ("c", NEAR, AUTO): "10000000",
    ("d", NEAR, AUTO): "11111111",
    ("s", NEAR, AUTO): "11111111",
}


def evidence_of(root, robust=ROBUST, data="cifar10:test:8"):
    store, keys = Store(root), []
    questions = [((m, m, "clean", "", 0), bits) for m, bits in CLEAN.items()]
    for (model, threat, attack), bits in robust.items():
        for judge in CARDS[model].members or (model,):
            questions.append(((model, judge, attack, threat, 0), bits))
    for (source, target, attack, threat, seed), bits in questions:
        trial = Trial(source, target, attack, threat, "data", 8, seed)
        store.add(trial, ShardResult(0, bits), {d: CARDS[d] for d in (source, target)}, data)
        keys.append(trial.key)
    rows = dict.fromkeys((model, threat) for model, threat, _ in robust)
    asked = {pair: tuple(a for m, t, a in robust if (m, t) == pair) for pair in rows}
    Manifest(
        study={},
        run={"data": data},
        images=8,
        models=CARDS,
        rows=tuple(Row(model, threat, 0, asked[model, threat]) for model, threat in rows),
        keys=tuple(keys),
    ).save(root)
    return Evidence.read(root)


def test_the_fields_by_hand(tmp_path):
    entry = entries(evidence_of(tmp_path))["cifar10/Linf/rst-0.1.json"]
    # AutoAttack 10100000, PGD 11000000, clean 11101110: together 10000000, one of eight.
    assert (entry["clean_acc"], entry["autoattack_acc"], entry["external"]) == ("75.00", "25.00", "12.50")
    assert (entry["name"], entry["dataset"], entry["eps"]) == ("rst-0.1", "cifar10", "8/255")
    assert (entry["architecture"], entry["venue"]) == ("resnet18", "Unpublished")
    assert (entry["remaining"], entry["sparsity"], entry["kept_weights"]) == (0.1, 0.9, 10)
    # What breaks RobustBench's own readers: null where they call float().
    assert all(entry[name] is not None for name in ("clean_acc", "autoattack_acc", "external"))
    assert entry["unreliable"] is False
    assert "first 8 images of cifar10:test:8" in entry["footnote"]


def test_external_is_left_out_where_nothing_found_less(tmp_path):
    entry = entries(evidence_of(tmp_path))["cifar10/Linf/_.._evil_name.json"]
    # PGD breaks only what AutoAttack breaks too.
    assert entry["autoattack_acc"] == "37.50"
    assert "external" not in entry


def test_flags_make_a_figure_unreliable(tmp_path):
    beaten = {**ROBUST, ("b", NEAR, PGD): "10000000"}
    entry = next(e for e in entries(evidence_of(tmp_path, beaten)).values() if e["model"] == CARDS["b"].name)
    assert entry["unreliable"] is True
    assert "weaker-than-pgd" in entry["footnote"]


def test_names_stay_inside_the_folder_and_apart(tmp_path):
    root = tmp_path / "run"
    written = write_entries(evidence_of(root), root)
    folder = root / "robustbench" / "cifar10" / "Linf"
    assert {path.parent for path in written} == {folder}
    # `RST-0.1` would be the same file as `rst-0.1` where case does not count.
    assert sorted(path.name for path in written) == [
        "RST-0.1_seed0.json",
        "_.._evil_name.json",
        "_.json",
        "rst-0.1.json",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_two_sizes_of_one_norm_get_a_file_each(tmp_path):
    found = entries(evidence_of(tmp_path, {**ROBUST, ("a", FAR, AUTO): "00000000"}))
    assert "cifar10/Linf/rst-0.1_eps_8_255.json" in found
    assert found["cifar10/Linf/rst-0.1_eps_16_255.json"]["eps"] == "16/255"


def test_no_entry_for_a_switch_or_without_autoattack(tmp_path):
    found = entries(evidence_of(tmp_path, {("s", NEAR, AUTO): "11111111", ("b", NEAR, PGD): "11110000"}))
    assert found == {}


def test_what_is_written_is_read_back(tmp_path):
    evidence = evidence_of(tmp_path)
    stale = tmp_path / "robustbench" / "cifar10" / "Linf" / "stale.json"
    foreign = tmp_path / "robustbench" / "mine.json"
    stale.parent.mkdir(parents=True)
    for path in (stale, foreign):
        path.write_text("{}")
    write_entries(evidence, tmp_path)
    assert not stale.exists()
    assert foreign.exists()
    quoted = gather(tmp_path / "robustbench").set_index("model")
    board = write(evidence, tmp_path)["leaderboard"].set_index("model")
    assert len(quoted) == 4
    for model, row in quoted.iterrows():
        assert row["clean"] == pytest.approx(board.loc[model, "clean"])
        assert row["robust"] == pytest.approx(board.loc[model, AUTO])
        assert (row["data"], row["threat"]) == ("cifar10", NEAR)
    assert quoted.loc["rst-0.1", ["remaining", "kept_weights"]].tolist() == [0.1, 10]
    assert quoted.loc["rst-0.1", "note"].startswith("another evaluation found 12.50 %")
    text = (tmp_path / "robustbench" / "cifar10" / "Linf" / "rst-0.1.json").read_text()
    assert json.loads(text)["autoattack_acc"] == "25.00"


def test_quoted_rows_stand_in_a_file_of_their_own(tmp_path):
    evidence = evidence_of(tmp_path)
    frames = write(evidence, tmp_path)
    saved = pd.read_csv(tmp_path / "published.csv")
    assert len(saved) == len(frames["published"]) == len(comparable(evidence)) > 100
    assert set(saved["kind"]) == {"published"}
    assert "published" not in set(pd.read_csv(tmp_path / "leaderboard.csv")["kind"])
    assert "nan" not in (tmp_path / "published.csv").read_text().lower().replace("imagenet", "").split(",")
    # Where nothing compares, an older file goes.
    write(evidence_of(tmp_path, data="digits:test"), tmp_path)
    assert not (tmp_path / "published.csv").exists()
