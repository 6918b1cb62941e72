"""The Pareto front, worked out on paper."""

from __future__ import annotations

import pandas as pd

from rstbench.reports.figures.pareto import front_of
from rstbench.reports.pareto import on_front, pareto

NEAR, FAR = "Linf:0.1", "Linf:0.2"


def line(model, kept, worst, threat=NEAR, seed=0):
    plain = {"kind": "ticket", "remaining": 0.1}
    return {"model": model, "kept_weights": kept, "worst": worst, "threat": threat, "seed": seed} | plain


def test_the_table_by_hand():
    lines = [
        line("big", 1000, 0.9),
        line("beaten", 500, 0.5),
        line("small", 100, 0.6),
        line("twin", 100, 0.6),
        line("weak-twin", 100, 0.5),
        line("dear", 2000, 0.9),
        line("elsewhere", 50, 0.1, FAR),
        line("another-seed", 10, 0.9, seed=1),
        line("unknown", None, 0.9),
        line("failed", 1, None),
    ]
    table = pareto(lines)
    assert table["model"].tolist() == [
        "small", "twin", "weak-twin", "beaten", "big", "dear", "elsewhere", "another-seed",
    ]  # fmt: skip
    front = set(table.loc[table["on_front"] == "true", "model"])
    assert front == {"small", "twin", "big", "elsewhere", "another-seed"}
    assert set(table["on_front"]) == {"true", "false"}
    assert table["worst_per_1000_kept"].tolist() == [6.0, 6.0, 5.0, 1.0, 0.9, 0.45, 2.0, 90.0]


def test_equals_stand_or_fall_together():
    assert on_front([(10, 0.5), (10, 0.5), (10, 0.4), (5, 0.1)]) == [True, True, False, True]
    assert on_front([(10, 0.5), (10, 0.5), (5, 0.5)]) == [False, False, True]
    assert on_front([]) == []


def test_the_figure_has_the_front_of_the_table():
    points = pd.DataFrame(
        {"kept_weights": [30, 10, 20, 20, 40, 50, 20], "worst": [0.5, 0.2, 0.4, 0.5, 0.6, 0.6, 0.5]},
        index=list("abcdefg"),
    )
    # a is as robust as d with more weights, c is beaten by d, f by e; g equals d.
    assert list(front_of(points).index) == ["b", "d", "g", "e"]
    lines = [line(name, row.kept_weights, row.worst) for name, row in points.iterrows()]
    table = pareto(lines).set_index("model")["on_front"]
    assert set(table.index[table == "true"]) == set(front_of(points).index)
