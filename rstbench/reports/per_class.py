"""Build the table of accuracy class by class, from the labels that the manifest keeps."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .lookup import Evidence
from .per_image import per_image_answers
from .statistics import interval, mean

COLUMNS = [
    "model", "kind", "threat", "seed", "attack", "class", "images", "clean", "robust", "robust_low",
    "robust_high",
]  # fmt: skip


def per_class(evidence: Evidence) -> pd.DataFrame:
    """Return one line a row of the leaderboard, attack (and `worst`) and class; none without labels."""
    labels = np.array(evidence.manifest.labels, dtype=int)
    classes = {int(label): labels == label for label in np.unique(labels)}
    lines = [
        {
            "model": evidence.info(row.model).name,
            "kind": evidence.info(row.model).kind,
            "threat": row.threat,
            "seed": row.seed,
            "attack": attack,
            "class": label,
            "images": int(in_class.sum()),
            "clean": mean(answers.clean[in_class]),
            **interval(values[in_class]),
        }
        for row in evidence.manifest.rows
        if classes and (answers := per_image_answers(evidence, row))
        for attack, values in answers.known().items()
        for label, in_class in classes.items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)
