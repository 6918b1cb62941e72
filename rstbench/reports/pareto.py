"""Robustness against size: which models no other beats in both."""

from __future__ import annotations

from typing import Any

import pandas as pd

COLUMNS = [
    "threat", "seed", "model", "kind", "kept_weights", "remaining", "worst", "worst_per_1000_kept",
    "on_front",
]  # fmt: skip


def pareto(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """One line a model of known size at each threat and seed, fewest weights first.

    lines: rows of the leaderboard. A model is on the front where no other has at most as many weights and is
    at least as robust, and is better in one of the two; equals stand or fall together.
    """
    known = [line for line in lines if line["kept_weights"] and line["worst"] is not None]
    order = list(dict.fromkeys((line["threat"], line["seed"]) for line in known))
    rows = [
        {
            **{name: line[name] for name in COLUMNS if name in line},
            "worst_per_1000_kept": float(f"{1000 * line['worst'] / line['kept_weights']:.6g}"),
            "on_front": str(not any(_beats(other, line) for other in known)).lower(),
        }
        for line in sorted(known, key=lambda line: (line["kept_weights"], -line["worst"], line["model"]))
    ]
    rows.sort(key=lambda row: order.index((row["threat"], row["seed"])))
    return pd.DataFrame(rows, columns=COLUMNS)


def _beats(other: dict[str, Any], line: dict[str, Any]) -> bool:
    if (other["threat"], other["seed"]) != (line["threat"], line["seed"]):
        return False
    fewer, safer = line["kept_weights"] - other["kept_weights"], other["worst"] - line["worst"]
    return bool(fewer >= 0 and safer >= 0 and (fewer > 0 or safer > 0))
