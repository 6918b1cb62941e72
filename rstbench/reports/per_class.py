"""Accuracy class by class, from the labels that the request keeps beside the evidence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .lookup import Evidence
from .per_image import answers
from .statistics import interval, mean

COLUMNS = [
    "model", "kind", "threat", "seed", "attack", "class", "images", "clean", "robust", "robust_low",
    "robust_high",
]  # fmt: skip


def per_class(evidence: Evidence) -> pd.DataFrame:
    """One line a row of the leaderboard, attack (and `worst`) and class; none where no labels are known."""
    labels = np.array(evidence.request.labels, dtype=int)
    classes = {int(label): labels == label for label in np.unique(labels)}
    lines = [
        {
            "model": evidence.card(row.model).name,
            "kind": evidence.card(row.model).kind,
            "threat": row.threat,
            "seed": row.seed,
            "attack": attack,
            "class": label,
            "images": int(own.sum()),
            "clean": mean(found.clean[own]),
            **interval(values[own]),
        }
        for row in evidence.request.rows
        if classes and (found := answers(evidence, row))
        for attack, values in found.known().items()
        for label, own in classes.items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)
