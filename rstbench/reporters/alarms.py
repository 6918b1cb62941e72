"""Alarms of a transfer matrix."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd


def alarms(frame: pd.DataFrame) -> Iterator[str]:
    """One line a target that images crafted elsewhere fool more often than its own do.

    frame: transfer.csv. An attack that loses to transferred images has not found what it could.
    """
    for (threat, attack, stop), part in frame.groupby(["threat", "attack", "early_stop"], sort=False):
        own = part[part["source"] == part["target"]].set_index("target")["robust"]
        for _, row in part[part["source"] != part["target"]].iterrows():
            white = own.get(row["target"])
            if white is not None and row["robust"] < white - 1e-6:
                stopped = ", stopped at the first success" if stop == "true" else ""
                yield (
                    f"transfer-beats-white-box: {attack} at {threat}{stopped}: images against "
                    f"{row['source']} leave {row['target']} {100 * row['robust']:.1f}%, its own "
                    f"{100 * white:.1f}%"
                )
