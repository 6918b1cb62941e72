"""Tables from a hand-made store: every figure below was worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial
from rstbench.reports.leaderboard import leaderboard, lines_of
from rstbench.reports.lookup import Evidence, base_attack, options_of
from rstbench.reports.ratios import ratios
from rstbench.reports.switch import switch
from rstbench.reports.tables import as_text, matrix_text, write
from rstbench.reports.transfer import transfer, transfer_flags

T = "Linf:0.1"
PGD, STOP, AUTO, JOINT = "pgd", "pgd:early_stop=true", "autoattack", "joint:orders=1"
CARDS = {
    "a": ModelInfo("rst-0.1", "ticket", "rst", "conv4", 0.1, 10, 100),
    "b": ModelInfo("rst-0.2", "ticket", "rst", "conv4", 0.2, 20, 100, ("selected-on-test",)),
    "s": ModelInfo("switch", "switch", "rst", "conv4", None, 30, 100, members=("a", "b"), weights=(0.5, 0.5)),
    "x": ModelInfo("dense", "trained", "adversarial-training", "conv4", 1.0, 100, 100),
}
# (source, target, attack) -> bits; two shards of two images.
BITS = {
    ("a", "a", "clean"): "1110",
    ("b", "b", "clean"): "1111",
    ("x", "x", "clean"): "1111",
    ("a", "a", PGD): "1000",
    ("a", "b", PGD): "1100",
    ("b", "a", PGD): "1010",
    ("b", "b", PGD): "0110",
    ("a", "a", STOP): "1000",
    ("a", "b", STOP): "1111",
    ("b", "a", STOP): "1110",
    ("b", "b", STOP): "0110",
    ("s", "a", PGD): "1000",
    ("s", "b", PGD): "0100",
    ("a", "a", AUTO): "1000",
    ("b", "b", AUTO): "0111",
    ("x", "x", PGD): "1110",
    ("x", "x", AUTO): "1100",
}


def make(root, bits=BITS, images=4, cards=CARDS):
    store, keys = Store(root), []
    for (source, target, attack), values in bits.items():
        clean = attack == "clean"
        trial = Trial(source, target, attack, "" if clean else T, "data", 2, 0)
        for start in range(0, len(values), 2):
            part = values[start : start + 2]
            stages = {}
            if attack == AUTO:
                stages = {"apgd-ce": "00", "square": "".join("1" if bit == "0" else "0" for bit in part)}
            tally = ShardResult(
                start, part, stages, (), 0 if clean else 42, 0 if clean else 40, 0.25, "cpu", 2
            )
            store.add(trial, tally, {d: cards[d] for d in (source, target)}, "digits:test")
        keys.append(trial.key)
    manifest = Manifest(
        study={"name": "hand"},
        run={"data": "digits:test"},
        images=images,
        models=cards,
        rows=(
            Row("a", T, 0, (PGD, AUTO)),
            Row("b", T, 0, (PGD, AUTO)),
            Row("s", T, 0, (PGD,)),
            Row("x", T, 0, (PGD, AUTO)),
        ),
        groups=(("a", "b"),),
        keys=tuple(keys),
    )
    manifest.save(root)
    return Evidence.read(root)


def test_the_leaderboard(tmp_path):
    frame = leaderboard(make(tmp_path)).set_index("model")
    assert list(frame.index) == ["dense", "rst-0.2", "rst-0.1", "switch"]
    # dense: 1110 and 1100; rst-0.2: 0110 and 0111; rst-0.1: 1000 twice; switch: the mean of 1000 and 0100.
    assert frame["worst"].tolist() == [0.5, 0.5, 0.25, 0.25]
    assert frame["rank"].tolist() == [1, 1, 3, 3]
    assert frame["clean"].tolist() == [1.0, 1.0, 0.75, 0.875]
    assert frame["pgd"].tolist() == [0.75, 0.5, 0.25, 0.25]
    assert frame["autoattack"].fillna(-1).tolist() == [0.5, 0.75, 0.25, -1]
    # Wilson for 1 of 4: 0.0456 to 0.6994; for 2 of 4: 0.1500 to 0.8500.
    assert frame.loc["rst-0.1", ["worst_low", "worst_high"]].tolist() == pytest.approx(
        [0.0456, 0.6994], abs=5e-5
    )
    assert frame.loc["dense", ["worst_low", "worst_high"]].tolist() == pytest.approx([0.15, 0.85], abs=5e-5)
    flags = {name: set(text.split()) for name, text in frame["flags"].items()}
    assert flags["dense"] == {"few-images", "square-beats-gradient"}
    # The images crafted against the switch fool b on more (0100) than its own (0110).
    assert flags["rst-0.2"] == {
        "few-images",
        "selected-on-test",
        "square-beats-gradient",
        "transfer-beats-white-box",
        "weaker-than-pgd",
    }
    # Those of b and of the switch fool a on no more than its own.
    assert flags["rst-0.1"] == {"few-images", "square-beats-gradient"}
    # Two shards of 42 forwards over 4 images, for two attacks; the switch was crafted against once.
    assert frame["forwards"].tolist() == [42, 42, 42, 21]
    assert frame["seconds"].tolist() == [1.5, 1.5, 1.5, 1.0]


def test_transfer_that_beats_the_white_box_raises_the_flag(tmp_path):
    frame = leaderboard(make(tmp_path, {**BITS, ("b", "a", PGD): "0000"})).set_index("model")
    assert "transfer-beats-white-box" in frame.loc["rst-0.1", "flags"]
    assert "transfer-beats-white-box" not in frame.loc["dense", "flags"]


@pytest.mark.parametrize(("bits", "raised"), [("0001", False), ("0000", True)])
def test_images_of_another_attack_count_against_all_of_ones_own(tmp_path, bits, raised):
    """Its own worst case leaves one image, 1000; what another attack crafted elsewhere leaves one or none."""
    frame = leaderboard(make(tmp_path, {**BITS, ("s", "a", "joint"): bits})).set_index("model")
    assert ("transfer-beats-white-box" in frame.loc["rst-0.1", "flags"]) == raised


@pytest.mark.parametrize(("attacks", "raised"), [((PGD,), True), ((PGD, JOINT), False)])
def test_a_switch_wants_to_be_attacked_jointly(tmp_path, attacks, raised):
    evidence = make(tmp_path, {**BITS, ("s", "a", JOINT): "0000", ("s", "b", JOINT): "0000"})
    rows = [replace(row, attacks=attacks) if row.model == "s" else row for row in evidence.manifest.rows]
    evidence = replace(evidence, manifest=replace(evidence.manifest, rows=tuple(rows)))
    frame = leaderboard(evidence).set_index("model")
    assert ("not-attacked-jointly" in frame.loc["switch", "flags"]) == raised
    assert "not-attacked-jointly" not in frame.loc["rst-0.1", "flags"]


@pytest.mark.parametrize(("bits", "raised"), [("1100", False), ("1110", True)])
def test_a_screen_that_leaves_more_than_autoattack_is_told(tmp_path, bits, raised):
    """AutoAttack leaves dense half of the images."""
    evidence = make(tmp_path, {**BITS, ("x", "x", "screen"): bits})
    rows = [replace(row, attacks=(*row.attacks, "screen")) for row in evidence.manifest.rows]
    evidence = replace(evidence, manifest=replace(evidence.manifest, rows=tuple(rows)))
    flags = leaderboard(evidence).set_index("model").loc["dense", "flags"]
    assert ("screen-above-autoattack" in flags) == raised


def test_an_attack_whose_name_begins_like_another_is_its_own(tmp_path):
    """`pgd-mine` is no PGD to which AutoAttack could lose, nor `autoattack-lite` an AutoAttack."""
    mine, lite = "pgd-mine:steps=3", "autoattack-lite"
    both = [(m, j, lite) for m in "ab" for j in "ab"]
    bits = {**BITS, ("x", "x", mine): "0000", ("x", "x", lite): "1111"} | dict.fromkeys(both, "1100")
    bits |= {("s", "a", mine): "1000", ("s", "b", mine): "0100"}
    evidence = make(tmp_path, bits)
    rows = [replace(row, attacks=(*row.attacks, mine, lite)) for row in evidence.manifest.rows]
    evidence = replace(evidence, manifest=replace(evidence.manifest, rows=tuple(rows)))
    flags = leaderboard(evidence).set_index("model").loc["dense", "flags"]
    # Dense: AutoAttack 0.5, PGD 0.75; `pgd-mine` leaves nothing, `autoattack-lite` everything.
    assert "weaker-than-pgd" not in flags
    matrix = transfer(evidence)
    assert set(matrix["attack"]) == {"pgd", lite}
    rungs = switch(evidence).set_index("attack")["rung"]
    assert (rungs[mine], rungs[lite]) == ("other", "T1")


def test_an_option_is_no_part_of_another():
    assert options_of("mine:early_stop=truest,n=2") == ["early_stop=truest", "n=2"]
    assert base_attack("mine:early_stop=truest") == "mine:early_stop=truest"


def test_a_missing_answer_is_an_empty_cell_and_no_rank(tmp_path):
    frame = leaderboard(make(tmp_path, {k: v for k, v in BITS.items() if k != ("x", "x", AUTO)})).set_index(
        "model"
    )
    assert list(frame.index)[-1] == "dense"
    assert frame.loc["dense", ["rank", "autoattack", "worst", "worst_low"]].isna().all()
    assert frame.loc["dense", "pgd"] == 0.75


def test_a_model_without_clean_answer_has_no_row(tmp_path):
    frame = leaderboard(make(tmp_path, {k: v for k, v in BITS.items() if k != ("x", "x", "clean")}))
    assert "dense" not in set(frame["model"])


def test_an_incomplete_answer_counts_for_nothing(tmp_path):
    frame = leaderboard(make(tmp_path, {**BITS, ("x", "x", PGD): "11"})).set_index("model")
    assert pd.isna(frame.loc["dense", "pgd"])


def test_only_the_images_asked_about_count(tmp_path):
    frame = leaderboard(make(tmp_path, images=2)).set_index("model")
    assert frame.loc["dense", "autoattack"] == 1.0
    assert frame["images"].unique().tolist() == [2]


def test_an_empty_store_gives_an_empty_table(tmp_path):
    make(tmp_path, {})
    evidence = Evidence.read(tmp_path)
    assert len(leaderboard(evidence)) == 0
    assert list(as_text({"leaderboard": leaderboard(evidence)}))
    assert len(ratios(lines_of(evidence), [PGD])) == 0


def test_the_transfer_table(tmp_path):
    frame = transfer(make(tmp_path))
    cells = frame.set_index(["early_stop", "source", "target"])["robust"].to_dict()
    assert cells == {
        ("false", "rst-0.1", "rst-0.1"): 0.25,
        ("false", "rst-0.1", "rst-0.2"): 0.5,
        ("false", "rst-0.2", "rst-0.1"): 0.5,
        ("false", "rst-0.2", "rst-0.2"): 0.5,
        ("true", "rst-0.1", "rst-0.1"): 0.25,
        ("true", "rst-0.1", "rst-0.2"): 1.0,
        ("true", "rst-0.2", "rst-0.1"): 0.75,
        ("true", "rst-0.2", "rst-0.2"): 0.5,
    }
    assert set(frame["attack"]) == {"pgd"}
    text = "\n".join(matrix_text(frame))
    assert "25.0%" in text
    assert "stopped at the first success" in text


def test_the_switch_table(tmp_path):
    frame = write(make(tmp_path), tmp_path)["switch"].set_index("rung")
    assert frame["clean"].unique().tolist() == [0.875, 0.75, 1]
    assert frame.loc["T0", "robust"] == pytest.approx((0.25 + 1 + 0.75 + 0.5) / 4)
    assert frame.loc["T1", "robust"] == pytest.approx((0.25 + 0.5 + 0.5 + 0.5) / 4)
    assert frame.loc["T2", "robust"] == 0.25
    # Sets judged by both: clean, two PGDs, two early-stopped ones, the switch's. Errors of a by image:
    # 0 1 1 1; of b: 1 0 1 1. So the mean error is (0.5 + 0.5 + 1 + 1) / 4, and the largest weighted one
    # 0.5 throughout.
    assert frame["lower_bound"].dropna().unique().tolist() == [0.25]
    assert frame["upper_bound"].dropna().unique().tolist() == [0.5]
    # Jointly: images 0 and 1 lose one member at a time; image 2 both under s; image 3 both under a.
    assert frame.loc["minimum", "robust"] == 0.25
    knows = {"T0": "false", "T1": "false", "T2": "true", "minimum": "true"}
    beside = ["mean-member", "best-member rst-0.1", "dense dense"]
    assert frame["knows_switch"].to_dict() == knows | dict.fromkeys(beside, "")
    assert set(frame["members"]) == {"rst-0.1+rst-0.2"}
    # Each member on its worst set, a: 1000, b: 0100 (of two equals the first); dense: 1110 and 1100.
    assert frame.loc[beside, "robust"].tolist() == [0.25, 0.25, 0.5]
    assert frame.loc[beside, "clean"].tolist() == [0.875, 0.75, 1]
    text = "\n".join(as_text({"switch": frame.reset_index()}))
    assert "best-member" in text
    assert "does not know it" in text


def test_what_a_switch_gains(tmp_path):
    """Worst of all the switch keeps 1/2, 1/2, 0, 0 by image; a: 1000; dense: 1100."""
    frames = write(make(tmp_path), tmp_path)
    frame = frames["compare"]
    lines = frame[frame["attack"] == "minimum"].set_index("role")
    assert lines["baseline"].to_dict() == {"mean-member": "", "best-member": "rst-0.1", "dense": "dense"}
    assert lines["difference"].to_dict() == {"mean-member": 0, "best-member": 0, "dense": -0.25}
    # Differences of the switch and a: -1/2, 1/2, 0, 0; with +1 and -1 added their variance is 2.5 / 6.
    half = 1.959964 * ((2.5 / 6) / 6) ** 0.5
    assert lines.loc["best-member", "difference_high"] == pytest.approx(half, abs=1e-6)
    assert set(lines["verdict"]) == {"not told apart"}
    text = "\n".join(as_text(frames))
    assert "switch at Linf:0.1, seed 0, worst of all: points more than" in text


def test_repeated_queries(tmp_path):
    """Against a's images the switch is right with 1, 1/2, 0, 0 by image; against b's with 1/2, 1/2, 1, 0:
    T1 over q draws is the mean of the q-th powers. Under the switch's own: 1/2, 1/2, 0, 0."""
    frame = write(make(tmp_path), tmp_path)["queries"].set_index(["rung", "queries"])["robust"]
    for count in (1, 2, 5, 10, 100):
        half = 0.5**count
        assert frame["T1", count] == pytest.approx(((1 + half) + (2 * half + 1)) / 8, abs=1e-6)
        assert frame["T2", count] == frame["minimum", count] == pytest.approx(2 * half / 4, abs=1e-6)


def test_flags_of_the_matrix(tmp_path):
    """Stopped at its first success b's own attack leaves it 2 of 4, no other less; nor a's own 1 of 4."""
    frame = transfer(make(tmp_path))
    assert list(transfer_flags(frame)) == []
    frame = transfer(make(tmp_path / "other", BITS | {("a", "b", PGD): "1000"}))
    (line,) = transfer_flags(frame)
    assert line == (
        f"transfer-beats-white-box: pgd at {T}: images against rst-0.1 leave rst-0.2 25.0%, its own 50.0%"
    )


def test_the_csv_files_are_read_back_equal(tmp_path):
    frames = write(make(tmp_path), tmp_path)
    for name, frame in frames.items():
        read = pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False, na_values=[""])
        assert list(read) == list(frame)
        assert (
            read["robust" if "robust" in frame else "worst"].tolist()
            == frame["robust" if "robust" in frame else "worst"].tolist()
        )
    assert "nan" not in (tmp_path / "leaderboard.csv").read_text().lower()


def test_base_attack():
    assert base_attack("pgd:early_stop=true,steps=50") == "pgd:steps=50"
    assert base_attack("pgd:early_stop=true") == "pgd"
