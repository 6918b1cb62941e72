"""Compare robustness with size: the Pareto front of accuracy against weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

COLUMNS = [
    "threat", "seed", "model", "kind", "kept_weights", "remaining", "worst", "worst_per_1000_kept",
    "on_front",
]  # fmt: skip


def on_front(models: Sequence[tuple[float, float]]) -> list[bool]:
    """Return whether each model, a pair of its weights and its accuracy, is on the Pareto front.

    It is where no other has at most as many weights and at least its accuracy, and is better in one of the
    two; equals stand or fall together.
    """
    return [
        not any(w <= weight and a >= accuracy and (w, a) != (weight, accuracy) for w, a in models)
        for weight, accuracy in models
    ]


def pareto(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one line a model of known size at each threat and seed, fewest weights first.

    lines: rows of the leaderboard.
    """
    known = [line for line in lines if line["kept_weights"] and line["worst"] is not None]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in known:
        groups.setdefault((line["threat"], line["seed"]), []).append(line)
    rows = []
    for group in groups.values():
        group.sort(key=lambda line: (line["kept_weights"], -line["worst"], line["model"]))
        front = on_front([(line["kept_weights"], line["worst"]) for line in group])
        rows += [
            {
                **{name: line[name] for name in COLUMNS if name in line},
                "worst_per_1000_kept": float(f"{1000 * line['worst'] / line['kept_weights']:.6g}"),
                "on_front": str(best).lower(),
            }
            for line, best in zip(group, front, strict=True)
        ]
    return pd.DataFrame(rows, columns=COLUMNS)
