"""Average the leaderboard over seeds for the figures: one point a setting, ratio and threat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..statistics import over_seeds

_SHARED = ["kind", "kept_weights", "images"]


def points(lines: Sequence[dict[str, Any]], attacks: Sequence[str]) -> pd.DataFrame:
    """Return means over seeds of `clean`, each attack, `worst` and `certified`, and `…_sd` where there are
    several.

    They are NaN unless all seeds have an answer.

    lines: as `lines_of` gives them. Columns: name, setting, ratio (both '' where there is none), threat,
    kind, kept_weights, images, seeds and the measures. Models of no table stand for themselves, their
    names without the seed.
    """
    measures = ["clean", *attacks, "worst", "certified"]
    columns = ["name", "setting", "ratio", "threat", *_SHARED, "seeds"]
    columns += [name for measure in measures for name in (measure, f"{measure}_sd")]
    frame = pd.DataFrame(lines)
    if frame.empty:
        return pd.DataFrame(columns=columns)
    frame["name"] = [_name_without_seed(line) for line in lines]
    rows = []
    for (name, threat), part in frame.groupby(["name", "threat"], sort=False):
        first = part.iloc[0]
        row = {"name": name, "threat": threat, "seeds": part["seed"].nunique()}
        row |= {column: first[column] for column in ("setting", "ratio", *_SHARED)}
        for measure in measures:
            row[measure], row[f"{measure}_sd"] = over_seeds(part.get(measure, ()))
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def _name_without_seed(line: dict[str, Any]) -> str:
    if line["setting"]:
        return "-".join(filter(None, (line["setting"], line["ratio"])))
    return str(line["model"]).removesuffix(f"-seed{line['seed']}")
