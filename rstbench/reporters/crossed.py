"""The transfer table as matrices: who was judged by whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def groups_of(part: pd.DataFrame) -> list[list[str]]:
    """Models that were judged by one another, in the table's order."""
    groups: list[list[str]] = []
    for source, judged in part.groupby("source", sort=False)["target"]:
        together = list(dict.fromkeys([str(source), *judged]))
        for group in [group for group in groups if set(group) & set(together)]:
            groups.remove(group)
            together = list(dict.fromkeys([*group, *together]))
        groups.append(together)
    return groups


def matrix(part: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """(sources, targets), nan where nobody asked. Of several seeds the mean."""
    cells = part.groupby(["source", "target"])["robust"].mean().unstack()
    return np.asarray(cells.reindex(index=list(names), columns=list(names)), dtype=float)
