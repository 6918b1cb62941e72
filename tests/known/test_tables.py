"""Tables from a hand-made store: every figure below was worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial
from rstbench.reports.leaderboard import leaderboard, lines_of
from rstbench.reports.lookup import Evidence, base_attack
from rstbench.reports.ratios import is_worth_it, ratios, ratios_text
from rstbench.reports.switch_bounds import Ladder, bounds, expected_error
from rstbench.reports.tables import as_text, matrix_text, write
from rstbench.reports.transfer import alarms, transfer

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
    request = Manifest(
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
    request.save(root)
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


def test_transfer_that_beats_the_white_box_raises_the_alarm(tmp_path):
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
    rows = [replace(row, attacks=attacks) if row.model == "s" else row for row in evidence.request.rows]
    evidence = replace(evidence, request=replace(evidence.request, rows=tuple(rows)))
    frame = leaderboard(evidence).set_index("model")
    assert ("not-attacked-jointly" in frame.loc["switch", "flags"]) == raised
    assert "not-attacked-jointly" not in frame.loc["rst-0.1", "flags"]


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


def test_the_ladder(tmp_path):
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


def test_alarms_of_the_matrix(tmp_path):
    """Stopped at its first success b's own attack leaves it 2 of 4, no other less; nor a's own 1 of 4."""
    frame = transfer(make(tmp_path))
    assert list(alarms(frame)) == []
    frame = transfer(make(tmp_path / "other", BITS | {("a", "b", PGD): "1000"}))
    (alarm,) = alarms(frame)
    assert alarm == (
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


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
def test_the_minimum_lies_between_the_bounds(seed, sets, members):
    random = np.random.RandomState(seed)
    wrong = random.randint(0, 2, (sets, members, 7)).astype(float)
    weights = random.dirichlet(np.ones(members))
    lower, upper = bounds(wrong, weights)
    minimum = 1 - expected_error(wrong, weights).mean()
    assert lower - 1e-12 <= minimum <= upper + 1e-12
    # Any single set is only sure to be at or above the lower bound.
    assert all(1 - (weights @ one).mean() >= lower - 1e-12 for one in wrong)
    assert all(minimum <= 1 - (weights @ one).mean() + 1e-12 for one in wrong)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.99))
def test_a_member_that_nothing_fools_moves_the_bounds_as_the_formula_says(seed, share):
    """With probability `share` it answers, the others share the rest: every error shrinks by 1 - share."""
    random = np.random.RandomState(seed)
    wrong, weights = random.randint(0, 2, (4, 3, 7)).astype(float), random.dirichlet(np.ones(3))
    more = np.concatenate([wrong, np.zeros((4, 1, 7))], axis=1)
    lower, upper = bounds(wrong, weights)
    moved = bounds(more, np.append((1 - share) * weights, share))
    assert moved == pytest.approx((1 - (1 - share) * (1 - lower), 1 - (1 - share) * (1 - upper)))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 4))
def test_the_mean_of_the_matrix_is_t0_and_t1(seed, members):
    """On the same bits, for equal weights, with and without early stop."""
    random = np.random.RandomState(seed)
    names = tuple("abcd"[:members])
    sets = {(name, attack): random.randint(0, 2, (members, 9)) for name in names for attack in (PGD, STOP)}
    sets["", "clean"] = np.ones((members, 9))
    rungs = Ladder("s", names, np.full(members, 1 / members), sets).rungs()
    found = {rung.name: rung.robust().mean() for rung in rungs}
    for rung, attack in (("T0", STOP), ("T1", PGD)):
        matrix = [[sets[source, attack][place].mean() for place in range(members)] for source in names]
        assert found[rung] == pytest.approx(np.mean(matrix))
    assert found["minimum"] <= min(found.values()) + 1e-12


def test_no_transfer_puts_the_mean_of_the_matrix_above_the_upper_bound():
    # Each member is fooled by its own images alone, everywhere: each set costs one half.
    wrong = np.zeros((2, 2, 3))
    wrong[0, 0] = wrong[1, 1] = 1
    weights = np.array([0.5, 0.5])
    assert bounds(wrong, weights) == (0.0, 0.5)
    # T1 with one member that is never attacked on its own: only the first set and the clean one.
    lopsided = np.stack([wrong[0], np.zeros((2, 3))])
    t1 = 1 - 0.5 * (weights @ lopsided[0]).mean() - 0.5 * (weights @ lopsided[1]).mean()
    assert t1 == 0.75 > bounds(lopsided, weights)[1] == 0.5


def test_base_attack():
    assert base_attack("pgd:early_stop=true,steps=50") == "pgd:steps=50"
    assert base_attack("pgd:early_stop=true") == "pgd"


def line(setting, ratio, seed, pgd, worst, clean=0.9):
    common = {"method": "rst", "threat": T, "remaining": 0.1, "kept_weights": 10, "images": 100}
    return {
        "setting": setting,
        "ratio": ratio,
        "seed": seed,
        "clean": clean,
        PGD: pgd,
        "worst": worst,
    } | common


def test_settings_over_seeds_by_hand():
    lines = [line("rst", "0.1", seed, pgd, pgd - 0.1) for seed, pgd in enumerate((0.5, 0.6, 0.7))]
    lines += [line("rst", "0.05", 0, 0.4, 0.4), line("rst", "0.05", 1, None, None), line("", "", 0, 0.9, 0.9)]
    lines += [line("dense", "", 0, 0.8, 0.8)]
    table = ratios(lines, [PGD]).set_index(["setting", "ratio"])
    assert list(table.index) == [("rst", "0.1"), ("rst", "0.05"), ("dense", "")]
    assert table.loc[("rst", "0.1"), ["seeds", PGD, f"{PGD}_sd", "worst"]].tolist() == [3, 0.6, 0.1, 0.5]
    # Where a seed has failed there is no mean over the seeds.
    assert table.loc[("rst", "0.05"), "seeds"] == 2
    assert table.loc[("rst", "0.05"), [PGD, f"{PGD}_sd"]].isna().all()
    text = list(ratios_text(table.reset_index()))
    assert text == [
        "clean: percent of 100 images, mean of 3 seeds ± standard deviation",
        "            0.05        0.1  dense",
        "rst    90.0 ±0.0  90.0 ±0.0",
        "dense                         90.0",
        "pgd at Linf:0.1: percent of 100 images, mean of 3 seeds ± standard deviation",
        "              0.1  dense",
        "rst    60.0 ±10.0",
        "dense               80.0",
    ]


def test_one_seed_and_one_setting_make_no_comparison():
    single = [line("rst", ratio, 0, 0.5, 0.5) for ratio in ("0.1", "0.2")] + [line("dense", "", 0, 0.8, 0.8)]
    assert not is_worth_it(ratios(single, [PGD]))
    assert is_worth_it(ratios([*single, line("rst", "0.1", 1, 0.5, 0.5)], [PGD]))
    assert is_worth_it(ratios([*single, *(line("row", r, 0, 0.5, 0.5) for r in ("0.1", "0.2"))], [PGD]))
