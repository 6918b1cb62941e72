"""What the figures draw, by hand; that they are drawn where there is something to show, always the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rstbench.evidence.manifest import Row
from rstbench.reports.figures.examples import amplification
from rstbench.reports.figures.pareto import short_count
from rstbench.reports.figures.points import points
from rstbench.reports.figures.ratios import families_of, grouped, levels_of
from rstbench.reports.figures.style import LONGEST, file_name, label, spread_out
from rstbench.reports.figures.switch import draw_switch
from rstbench.reports.report import write_report
from rstbench.reports.tables import write
from rstbench.reports.transfer import groups_of, matrix

T = "Linf:8/255"


def line(setting, ratio, seed, worst, **more):
    name = "-".join(filter(None, (setting, ratio))) + f"-seed{seed}"
    known = {"threat": T, "kind": "ticket", "kept_weights": 10, "images": 100, "clean": 0.9, "pgd": worst}
    return {"model": name, "setting": setting, "ratio": ratio, "seed": seed, "worst": worst, **known, **more}


def test_points_are_means_over_seeds():
    lines = [line("rst", "0.1", seed, worst) for seed, worst in enumerate((0.5, 0.6, 0.7))]
    lines += [line("dense", "", 0, 0.8, kind="trained"), line("", "", 0, None, model="mine-seed0")]
    found = points(lines, ["pgd"]).set_index("name")
    assert list(found.index) == ["rst-0.1", "dense", "mine"]
    assert found.loc["rst-0.1", ["seeds", "worst", "worst_sd"]].tolist() == pytest.approx([3, 0.6, 0.1])
    assert found.loc["dense", ["worst", "clean"]].tolist() == [0.8, 0.9]
    assert found.loc[["dense", "mine"], "worst_sd"].isna().all()
    assert pd.isna(found.loc["mine", "worst"])
    assert len(points([], ["pgd"])) == 0


def test_a_line_needs_two_ratios():
    one = points([line("rst", "0.1", 0, 0.5), line("row", "0.2", 0, 0.5)], [])
    assert families_of(one) == []
    two = points([line("rst", "0.1", 0, 0.5), line("rst", "0.2", 0, 0.5), line("row", "0.2", 0, 0.5)], [])
    assert families_of(two) == ["rst", "row"]


def test_many_families_share_panels_by_their_first_word():
    assert grouped(["rst", "init-a", "init-b"]) == {"": ["rst", "init-a", "init-b"]}
    many = ["rst", "init-a", "init-b", "narrow", "deep-x", *(f"p-{n}" for n in range(7))]
    assert grouped(many) == {
        "init": ["init-a", "init-b"],
        "p 1": [f"p-{n}" for n in range(6)],
        "p 2": ["p-6"],
        "others": ["narrow", "deep-x"],
    }


def test_levels_are_the_most_robust_networks_without_a_ratio():
    lines = [line(name, "", 0, worst, kind="trained") for name, worst in (("x", 0.2), ("y", 0.5), ("z", 0.4))]
    lines += [line("rst", "0.1", 0, 0.9), line("w", "", 0, 0.1, kind="external"), line("v", "", 0, None)]
    found = levels_of(points(lines, []), "worst")
    assert found == [("y", 0.5), ("z", 0.4), ("x", 0.2)]


@pytest.mark.parametrize(
    ("values", "moved"),
    [
        ([0.0, 5.0], [0.0, 5.0]),
        ([1.0, 1.0], [0.5, 1.5]),
        ([1.0, 0.5], [1.25, 0.25]),
        # The upper two are pushed apart, and the lowest by them.
        ([2.0, 2.0, 1.2], [1.7333, 2.7333, 0.7333]),
        ([], []),
    ],
)
def test_labels_are_moved_as_little_as_may_be(values, moved):
    found = spread_out(values, 1.0)
    assert found == pytest.approx(moved, abs=1e-3)
    assert all(b - a >= 1 - 1e-9 for a, b in zip(sorted(found), sorted(found)[1:], strict=False))


def test_amplification_is_a_round_factor():
    assert amplification(np.array([0.1, -0.05])) == 5
    assert amplification(np.array([8 / 255])) == 10  # 15.9
    assert amplification(np.array([0.0])) == 1
    assert amplification(np.array([0.9])) == 0.5


def test_small_texts():
    assert [short_count(n) for n in (999, 11526, 5_765_000)] == ["999", "11.5k", "5.76M"]
    assert file_name("transfer", "pgd:steps=3", T) == "transfer-pgd-steps-3-Linf-8-255"
    assert file_name("../../x") == "..-..-x"
    assert label("x" * 40) == "x" * (LONGEST - 1) + "…"
    assert label("a\x00b\n") == "a\ufffdb\ufffd"


def test_groups_of_models_that_judged_one_another():
    cells = [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"), ("c", "c"), ("c", "d"), ("d", "d")]
    part = pd.DataFrame([{"source": s, "target": t, "robust": len(s + t) / 4} for s, t in cells])
    assert groups_of(part) == [["a", "b"], ["c", "d"]]
    found = matrix(part, ["c", "d"])
    assert np.isnan(found[1, 0])
    assert found[0, 1] == 0.5


def test_switches_of_the_same_members_are_told_apart():
    common = {"members": "a+b", "threat": T, "seed": 0, "lower_bound": 0.4, "upper_bound": 0.8, "clean": 0.9}
    common |= {"rung": "minimum", "attack": "", "knows_switch": "true", "robust": 0.5}
    common |= {"robust_low": 0.4, "robust_high": 0.6}
    asked = pd.DataFrame([{**common, "weights": weights} for weights in ("0.5+0.5", "0.25+0.75", "0+1")])
    found = list(draw_switch(asked))
    weighted = "switch-weighted-Linf-8-255-seed0"
    assert [one.name for one in found] == ["switch-Linf-8-255-seed0", weighted, f"{weighted}-more"]
    assert [one.title for one in found[:2]] == [
        f"The switch of a, b at {T}, seed 0",
        f"The switch of a, b with weights 0.25, 0.75 at {T}, seed 0",
    ]


def drawn(hand_run, root, **more):
    evidence = hand_run(root, **more)
    assert write_report(evidence, write(evidence, root), root) == []
    return {path.name: path.read_bytes() for path in (root / "figures").glob("[!.]*")}


def test_every_figure_that_has_something_to_show(hand_run, tmp_path):
    found = drawn(hand_run, tmp_path)
    assert {name.removesuffix(".svg") for name in found if name.endswith(".svg")} == {
        "ratios", "radius", "pareto", "examples-Linf-1-10", "transfer-pgd-Linf-1-10", "transfer-pgd-Linf-1-5",
        "switch-Linf-1-10-seed0", "switch-Linf-1-5-seed0",
    }  # fmt: skip
    assert {name.replace(".svg", ".png") for name in found} == {n for n in found if n.endswith(".png")}
    assert all(content.startswith(b"\x89PNG") for name, content in found.items() if name.endswith(".png"))
    assert all(b"http://purl" not in content for content in found.values())


def test_the_same_evidence_gives_the_same_bytes(hand_run, tmp_path):
    assert drawn(hand_run, tmp_path / "one") == drawn(hand_run, tmp_path / "two")


def test_figures_of_an_earlier_request_go_and_those_of_others_stay(hand_run, tmp_path):
    drawn(hand_run, tmp_path)
    for name in ("ratios-old.png", "mine.png", "ratios.txt"):
        (tmp_path / "figures" / name).write_bytes(b"x")
    dense = Row("d" * 64, "Linf:1/10", 0, ("pgd",))
    found = drawn(hand_run, tmp_path, rows=[dense])
    # Still judged by one another, and still a switch among the models: but no line, no front, no radius.
    kept = {"ratios-old.png", "mine.png", "ratios.txt"}
    assert {name for name in found if not name.startswith("transfer")} == kept


def test_figures_are_drawn_again_where_something_has_changed(hand_run, tmp_path, monkeypatch):
    found = drawn(hand_run, tmp_path)
    page = (tmp_path / "index.html").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("figures/*")}
    assert drawn(hand_run, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("figures/*")} == times
    assert (tmp_path / "index.html").read_bytes() == page
    victim = next(tmp_path.glob("figures/*.svg"))
    for damaged, text in ((victim, "<svg/>"), (tmp_path / "figures/.written", '{"figures": [1]}')):
        damaged.write_text(text)
        assert drawn(hand_run, tmp_path) == found
        assert (tmp_path / "index.html").read_bytes() == page
    assert drawn(hand_run, tmp_path, names={"rst-0.1": "other"}) != found


@pytest.mark.parametrize("name", ["$x$ and \\frac{", "網路", "a\x00b\n", "x" * 300, "_hidden", " "])
def test_strange_names_are_drawn(hand_run, tmp_path, name):
    found = drawn(hand_run, tmp_path, names={"rst-0.1": name, "dense": name + "2"})
    assert len(found) == 16
