"""The tables by class, against eps, and against dense networks, each worked out on paper."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rstbench.errors import BadFile
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.store import Store
from rstbench.evidence.trial import CLEAN, ModelInfo, ShardResult, Trial
from rstbench.flags import MORE_ROBUST_AT_LARGER_EPS
from rstbench.reports.compare import compare
from rstbench.reports.curves import curves
from rstbench.reports.leaderboard import leaderboard, lines_of
from rstbench.reports.lookup import Evidence
from rstbench.reports.per_class import per_class
from rstbench.reports.per_image import per_image_answers
from rstbench.reports.ratios import is_comparison, ratios, ratios_text
from rstbench.reports.tables import tables, write

NEAR, FAR = "Linf:0.1", "Linf:0.2"
TICKET = ModelInfo("rst-0.1", "ticket", "rst", "conv4", 0.1, 10, 100)


def dense(name, kept=100, network="conv4", method="adversarial-training", total=None):
    return ModelInfo(name, "trained", method, network, 1.0, kept, total or kept)


def make(root, cards, bits, rows, images=4, labels=(), failures=()):
    """bits: (model, attack, threat, seed) -> a bit an image, those of switches by (switch, member)."""
    store, keys = Store(root), []
    for (pair, attack, threat, seed), values in bits.items():
        source, target = pair if isinstance(pair, tuple) else (pair, pair)
        trial = Trial(source, target, attack, threat, "data", images, seed)
        store.add(trial, ShardResult(0, values), {d: cards[d] for d in (source, target)}, "digits:test")
        keys.append(trial.key)
    manifest = Manifest(
        {"name": "hand"},
        {"data": "digits:test"},
        images,
        cards,
        tuple(rows),
        (),
        tuple(keys),
        failures,
        labels,
    )
    manifest.save(root)
    return Evidence.read(root)


def clean(model, values):
    return {(model, CLEAN, "", 0): values}


def one(root, **more):
    """A ticket under two attacks, of which each finds images the other does not."""
    bits = {**clean("a", "1110"), ("a", "pgd", NEAR, 0): "1101", ("a", "cw", NEAR, 0): "1011"}
    return make(root, {"a": TICKET}, bits, [Row("a", NEAR, 0, ("pgd", "cw"))], **more)


def test_the_worst_case_is_the_and_of_the_bits(tmp_path):
    evidence = one(tmp_path)
    answers = per_image_answers(evidence, evidence.manifest.rows[0])
    assert answers.worst.tolist() == [1, 0, 0, 0]
    # pgd and cw are right on the last image, the model is wrong on it without any attack.
    assert list(answers.known()) == ["pgd", "cw", "worst"]
    assert leaderboard(evidence)[["pgd", "cw", "worst"]].to_numpy().tolist() == [[0.75, 0.75, 0.25]]


@pytest.mark.parametrize("missing", ["pgd", "cw"])
def test_there_is_no_worst_case_without_every_attack(tmp_path, missing):
    whole = one(tmp_path)
    records = {key: record for key, record in whole.records.items() if key[2] != missing}
    evidence = Evidence(whole.manifest, records)
    answers = per_image_answers(evidence, evidence.manifest.rows[0])
    assert answers.worst is None
    assert len(answers.known()) == 1


def test_by_class(tmp_path):
    frame = per_class(one(tmp_path, labels=(7, 3, 7, 3))).set_index(["attack", "class"])
    # Class 3: images 1 and 3, class 7: images 0 and 2.
    assert list(frame.index) == [(a, c) for a in ("pgd", "cw", "worst") for c in (3, 7)]
    assert frame["images"].unique().tolist() == [2]
    assert frame["clean"].tolist() == [0.5, 1.0] * 3
    assert frame["robust"].tolist() == [1.0, 0.5, 0.5, 1.0, 0.0, 0.5]
    # Wilson for 0, 1 and 2 of 2: 0 to 0.6576, 0.0945 to 0.9055, 0.3424 to 1.
    worst = frame.loc["worst", ["robust_low", "robust_high"]].to_numpy()
    assert worst == pytest.approx(np.array([[0, 0.6576], [0.0945, 0.9055]]), abs=5e-5)
    assert frame.loc[("pgd", 3), "robust_low"] == pytest.approx(0.3424, abs=5e-5)


def test_the_classes_add_up_to_the_leaderboard(tmp_path):
    evidence = one(tmp_path, labels=(1, 0, 0, 0))
    frame, board = per_class(evidence), leaderboard(evidence)
    for attack, part in frame.groupby("attack"):
        assert (part["robust"] * part["images"]).sum() / 4 == pytest.approx(board[attack][0])


def test_without_labels_there_are_no_classes(tmp_path):
    assert "per_class" in write(one(tmp_path, labels=(1, 0, 0, 0)), tmp_path)
    assert (tmp_path / "per_class.csv").exists()
    # An older folder knows none, and an earlier table of them would be out of date.
    assert "per_class" not in write(one(tmp_path), tmp_path)
    assert not (tmp_path / "per_class.csv").exists()


def test_labels_come_back_from_the_file_or_are_refused(tmp_path):
    one(tmp_path, labels=(7, 3, 7, 3))
    assert Manifest.load(tmp_path).labels == (7, 3, 7, 3)
    path = tmp_path / "study.toml"
    whole = path.read_text()
    assert 'labels = "7 3 7 3"' in whole
    for broken in ('labels = "7 3 7"', 'labels = "7 3 7 x"', "labels = 4"):
        path.write_text(whole.replace('labels = "7 3 7 3"', broken))
        with pytest.raises(BadFile, match="not what `evaluate` writes"):
            Manifest.load(tmp_path)
    path.write_text(whole.replace('labels = "7 3 7 3"\n', ""))
    assert Manifest.load(tmp_path).labels == ()


def several_eps(root, second="1000", third="1100"):
    bits = {
        **clean("a", "1110"),
        ("a", "pgd", "Linf:8/255", 0): "1100",
        ("a", "pgd", "Linf:4/255", 0): "1110",
        ("a", "pgd", "Linf:0.1", 0): second,
        ("a", "pgd", "L2:0.5", 0): third,
        ("a", "cw", "Linf:0.1", 0): "1000",
    }
    threats = ("Linf:8/255", "Linf:4/255", "Linf:0.1", "L2:0.5")
    rows = [Row("a", t, 0, ("pgd", "cw") if t == "Linf:0.1" else ("pgd",)) for t in threats]
    return make(root, {"a": TICKET}, bits, rows)


def test_curves(tmp_path):
    frame = curves(several_eps(tmp_path))
    # One eps makes no curve: neither cw nor L2 have one.
    assert set(frame["norm"]) == {"Linf"}
    assert set(frame["attack"]) == {"pgd", "worst"}
    own = frame[frame["attack"] == "pgd"]
    assert own["eps"].tolist() == ["0", "4/255", "8/255", "0.1"]
    assert own["eps_value"].tolist() == [0.0, 4 / 255, 8 / 255, 0.1]
    assert own["robust"].tolist() == [0.75, 0.75, 0.5, 0.25]
    assert own["flags"].tolist() == ["", "", "", ""]
    assert own["images"].tolist() == [4] * 4
    # Wilson for 1 of 4: 0.0456 to 0.6994.
    assert own[["robust_low", "robust_high"]].iloc[3].tolist() == pytest.approx([0.0456, 0.6994], abs=5e-5)


def test_a_curve_that_rises_is_flagged_and_not_bent(tmp_path):
    own = curves(several_eps(tmp_path, second="1110")).query("attack == 'pgd'")
    assert own["robust"].tolist() == [0.75, 0.75, 0.5, 0.75]
    assert own["flags"].tolist() == ["", "", "", MORE_ROBUST_AT_LARGER_EPS.name]


def test_an_eps_of_nothing_that_was_asked_stands_for_itself(tmp_path):
    bits = {**clean("a", "1110"), ("a", "pgd", "Linf:0", 0): "1110", ("a", "pgd", NEAR, 0): "1000"}
    evidence = make(tmp_path, {"a": TICKET}, bits, [Row("a", t, 0, ("pgd",)) for t in (NEAR, "Linf:0")])
    assert curves(evidence).query("attack == 'pgd'")["eps"].tolist() == ["0", "0.1"]


def field(root, cards, answers, threats=(NEAR,), attacks=("pgd",)):
    """Every model right on all clean images, and under every attack on those with a 1."""
    bits = {key: value for model in answers for key, value in clean(model, "1" * 60).items()}
    for model, values in answers.items():
        bits |= {(model, attack, threat, 0): values for attack in attacks for threat in threats}
    rows = [Row(model, threat, 0, attacks) for threat in threats for model in answers]
    return make(root, cards, bits, rows, images=60)


def test_against_the_dense_network_by_hand(tmp_path):
    """10 images only the ticket gets right, 2 only the dense one, of 60, as in the interval's own test."""
    ours, theirs = "1" * 10 + "00" + "1" * 48, "0" * 10 + "11" + "1" * 48
    evidence = field(tmp_path, {"a": TICKET, "d": dense("dense")}, {"a": ours, "d": theirs})
    frame = compare(evidence)
    # Not `same-size`: 100 weights are no 10. The dense network itself has nothing to be held against.
    assert frame[["model", "baseline", "role"]].to_numpy().tolist() == [["rst-0.1", "dense", "dense"]] * 2
    assert frame["attack"].tolist() == ["pgd", "worst"]
    row = frame.iloc[0]
    assert (row["robust"], row["baseline_robust"], row["images"]) == (0.966667, 0.833333, 60)
    # Differences of 11 and 3 of 62, each with one added: 8 / 62 ± 1.96 sqrt((14/62 - (8/62)²) / 62).
    assert row["difference"] == pytest.approx(8 / 60, abs=1e-6)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((0.015194, 0.242871), abs=1e-6)
    assert row["verdict"] == "better"


def test_who_is_a_baseline(tmp_path):
    cards = {
        "a": TICKET,
        "d": dense("dense"),
        "wide": dense("wide", 400, "conv4[width=2]"),
        "n": dense("natural", method="natural-training"),
        "tuned": dense("tuned", 10, total=100),
        "small": dense("small", 11, "conv4[width=0.1]"),
        "smaller": dense("smaller", 8, "conv4[width=0.09]"),
        "x": ModelInfo("external", "external"),
        "s": ModelInfo("switch", "switch", "rst", "conv4", None, 10, 100, members=("a",), weights=(1.0,)),
    }
    models = {digest: "1" * 60 for digest in cards if digest != "s"}
    evidence = field(tmp_path, cards, {**models, "s": "1" * 60})
    pairs = compare(evidence).query("attack == 'pgd'")
    found = {name: part[["baseline", "role"]].to_numpy().tolist() for name, part in pairs.groupby("model")}
    # 11 is within 15 % of 10, 8 is not; 11 of 8 is not either.
    assert found == {
        "rst-0.1": [["dense", "dense"], ["small", "same-size"]],
        "natural": [["dense", "dense"], ["dense", "same-size"]],
        "tuned": [["dense", "dense"], ["small", "same-size"]],
    }
    assert len(compare(field(tmp_path / "alone", {"a": TICKET}, {"a": "1" * 60}))) == 0


def test_worst_is_compared_only_over_the_same_attacks(tmp_path):
    bits = {**clean("a", "1111"), **clean("d", "1111")}
    bits |= {("a", "pgd", NEAR, 0): "1111", ("d", "pgd", NEAR, 0): "1100", ("d", "cw", NEAR, 0): "0000"}
    rows = [Row("a", NEAR, 0, ("pgd",)), Row("d", NEAR, 0, ("pgd", "cw"))]
    evidence = make(tmp_path, {"a": TICKET, "d": dense("dense")}, bits, rows)
    assert compare(evidence)["attack"].tolist() == ["pgd"]


def test_a_store_with_only_failures_gives_rows_without_figures(tmp_path):
    rows = [Row("a", NEAR, 0, ("pgd",)), Row("d", NEAR, 0, ("pgd",))]
    cards = {"a": TICKET, "d": dense("dense")}
    evidence = make(tmp_path, cards, {}, rows, labels=(0, 1, 0, 1), failures=("a failed", "so did d"))
    frames = write(evidence, tmp_path)
    assert list(frames) == ["leaderboard"]
    assert list(frames["leaderboard"]["model"]) == ["dense", TICKET.name]
    assert frames["leaderboard"][["rank", "clean", "pgd", "worst", "forwards"]].isna().all(axis=None)
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["leaderboard.csv"]
    assert (tmp_path / "leaderboard.csv").read_text().count("\n") == 3
    # Of a run that goes on, nothing is told of models that were not asked yet.
    assert not len(leaderboard(make(tmp_path / "running", cards, {}, rows)))
    # Clean answers alone are rows without a rank, and nothing to compare.
    evidence = make(tmp_path, cards, {**clean("a", "1110"), **clean("d", "1111")}, rows)
    assert list(tables(evidence)) == ["leaderboard"]
    assert leaderboard(evidence)[["rank", "worst"]].isna().to_numpy().all()


def test_models_without_a_table_of_the_study_over_several_seeds(tmp_path):
    cards = {"x": ModelInfo("external", "external"), "y": ModelInfo("once", "external")}
    bits = {**clean("x", "1111"), **clean("y", "1111"), ("y", "pgd", NEAR, 0): "1111"}
    bits |= {("x", "pgd", NEAR, seed): values for seed, values in enumerate(("1100", "1110", "1000"))}
    rows = [*(Row("x", NEAR, seed, ("pgd",)) for seed in range(3)), Row("y", NEAR, 0, ("pgd",))]
    table = ratios(lines_of(make(tmp_path, cards, bits, rows)), ["pgd"])
    assert is_comparison(table)
    row = table.set_index("setting").loc["external"]
    assert (row["seeds"], row["pgd"], row["pgd_sd"], row["clean_sd"]) == (3, 0.5, 0.25, 0.0)
    assert len(table) == 1
    assert list(ratios_text(table))[1].split() == ["other"]


GOLDEN = """\
rank,model,kind,method,network,data,threat,images,seed,remaining,kept_weights,total_weights,clean,pgd,cw,\
worst,worst_low,worst_high,flags,forwards,backwards,seconds
1,rst-0.1,ticket,rst,conv4,digits:test,Linf:0.1,4,0,0.1,10,100,0.75,0.75,0.75,0.25,0.045587,0.699358,\
few-images,0.0,0.0,0.0
"""
GOLDEN_CLASSES = """\
model,kind,threat,seed,attack,class,images,clean,robust,robust_low,robust_high
rst-0.1,ticket,Linf:0.1,0,pgd,3,2,0.5,1.0,0.34238,1.0
rst-0.1,ticket,Linf:0.1,0,pgd,7,2,1.0,0.5,0.094531,0.905469
rst-0.1,ticket,Linf:0.1,0,cw,3,2,0.5,0.5,0.094531,0.905469
rst-0.1,ticket,Linf:0.1,0,cw,7,2,1.0,1.0,0.34238,1.0
rst-0.1,ticket,Linf:0.1,0,worst,3,2,0.5,0.0,0.0,0.65762
rst-0.1,ticket,Linf:0.1,0,worst,7,2,1.0,0.5,0.094531,0.905469
"""


def test_the_text_of_the_files(tmp_path):
    write(one(tmp_path, labels=(7, 3, 7, 3)), tmp_path)
    assert (tmp_path / "leaderboard.csv").read_text() == GOLDEN
    assert (tmp_path / "per_class.csv").read_text() == GOLDEN_CLASSES
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["leaderboard.csv", "per_class.csv"]


def test_no_file_holds_nan(tmp_path):
    odd = ModelInfo("odd", "external", remaining=float("nan"), made_seconds=float("inf"))
    bits = {**clean("a", "1110"), **clean("x", "1111"), ("a", "pgd", NEAR, 0): "1101"}
    rows = [Row("a", NEAR, 0, ("pgd",)), Row("x", NEAR, 0, ("pgd",))]
    evidence = make(tmp_path, {"a": TICKET, "x": odd}, bits, rows, labels=(0, 0, 1, 1))
    write(evidence, tmp_path, ["markdown", "latex", "html", "json"])
    files = [path for path in tmp_path.iterdir() if path.is_file() and path.name != "study.toml"]
    assert len(files) == 15
    for path in files:
        text = path.read_text().lower()
        assert not any(word in text.replace("inf:0.1", "") for word in ("nan", "inf", "none")), path
    assert pd.read_csv(tmp_path / "leaderboard.csv")["remaining"].isna().tolist() == [False, True]
