"""Build the table of an ablation: settings against remaining ratios, over all seeds of a study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from .statistics import DIGITS, over_seeds

HEAD = ["setting", "ratio", "method", "threat", "remaining", "kept_weights", "seeds", "images"]
COSTS = ["made_seconds", "made_mib"]
DENSE, OTHER = "dense", "other"  # the column of models without a ratio: with all weights, or switches


def ratios(lines: list[dict[str, Any]], attacks: list[str]) -> pd.DataFrame:
    """Return one row a setting, ratio and threat: means over seeds of `clean`, of each attack and of `worst`.

    Beside each is its sample standard deviation (`…_sd`, empty for one seed); the last columns are the mean
    cost of making the networks. lines: rows of the leaderboard with the
    `setting` (the table of the study; of a model that was given, its name, where it was attacked at several
    seeds) and the `ratio` each was made at. A cell is empty unless all seeds of its row have an answer.
    """
    frame = pd.DataFrame(lines)
    if frame.empty:
        return pd.DataFrame(columns=HEAD)
    frame = frame[frame["setting"] != ""]
    measures = ["clean", *attacks, "worst"]
    rows = []
    for (setting, ratio, threat), part in frame.groupby(["setting", "ratio", "threat"], sort=False):
        row = {"setting": setting, "ratio": ratio, "threat": threat, "seeds": part["seed"].nunique()}
        row |= {name: part[name].iloc[0] for name in ("method", "remaining", "kept_weights", "images")}
        for measure in measures:
            figures = over_seeds(part.get(measure, ()))
            row[measure], row[f"{measure}_sd"] = (round(figure, DIGITS) for figure in figures)
        for cost in COSTS:
            values = part[cost].astype(float).dropna() if cost in part else []
            row[cost] = round(sum(values) / len(values), 1) if len(values) else None
        rows.append(row)
    columns = [*HEAD, *(name for measure in measures for name in (measure, f"{measure}_sd")), *COSTS]
    return pd.DataFrame(rows, columns=columns).astype({"kept_weights": "Int64"})


def is_comparison(table: pd.DataFrame) -> bool:
    """Return whether there are several seeds, or several settings at several ratios."""
    if table.empty:
        return False
    ratio_counts = table.groupby("setting")["ratio"].nunique()
    return bool((table["seeds"] > 1).any() or (ratio_counts > 1).sum() > 1)


def ratios_text(table: pd.DataFrame) -> Iterator[str]:
    """Yield one grid a threat and measure for a terminal: settings down, ratios across, mean ± deviation."""
    measures = [name.removesuffix("_sd") for name in table if name.endswith("_sd")]
    visible = [name for name in measures if name != "worst" or len(measures) > 3]  # one attack: worst is it
    for threat, part in table.groupby("threat", sort=False):
        for measure in (name for name in visible if part[name].notna().any()):
            seeds = part["seeds"].max()
            over = f", mean of {seeds} seeds ± standard deviation" if seeds > 1 else ""
            images = part["images"].max()
            where = "" if measure == "clean" else f" at {threat}"
            yield f"{measure}{where}: percent of {images} images{over}"
            yield from _grid(part[part[measure].notna()], measure)


def _grid(part: pd.DataFrame, measure: str) -> Iterator[str]:
    last = without_ratio(part)
    cells = {
        (row["setting"], row["ratio"] or last): _cell(row[measure], row[f"{measure}_sd"])
        for _, row in part.iterrows()
    }
    columns = sorted({ratio for _, ratio in cells}, key=lambda r: (r == last, r if r == last else float(r)))
    settings = list(dict.fromkeys(setting for setting, _ in cells))
    names = max(map(len, settings))
    widths = [max(len(c), *(len(cells.get((s, c), "")) for s in settings)) for c in columns]
    yield "  ".join(["".ljust(names), *(c.rjust(w) for c, w in zip(columns, widths, strict=True))])
    for setting in settings:
        row = (cells.get((setting, c), "").rjust(w) for c, w in zip(columns, widths, strict=True))
        yield "  ".join([setting.ljust(names), *row]).rstrip()


def without_ratio(part: pd.DataFrame) -> str:
    """Return the name of the column of models without a ratio; part: lines of the table."""
    without = part.loc[part["ratio"] == "", "remaining"]
    return DENSE if without.notna().all() else OTHER


def _cell(mean: float, deviation: float) -> str:
    if pd.isna(mean):
        return ""
    return f"{100 * mean:.1f}" + ("" if pd.isna(deviation) else f" ±{100 * deviation:.1f}")
