"""Robust accuracy against eps, where a model was attacked at several of one norm."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from .lookup import Evidence
from .per_image import PerImage, answers
from .statistics import interval, mean

COLUMNS = [
    "model", "kind", "norm", "eps", "eps_value", "attack", "seed", "images", "robust", "robust_low",
    "robust_high", "flags",
]  # fmt: skip
# Every image of the smaller ball lies in the larger one: there an attack was weaker, or fewer were asked.
RISES = "more-robust-at-larger-eps"
Point = tuple[Fraction, str, np.ndarray]  # eps, eps as it is written, probabilities of being right


def curves(evidence: Evidence) -> pd.DataFrame:
    """One line an eps, for each model, norm, seed and attack (and `worst`) that was asked at two or more.

    eps 0 is the clean accuracy. Figures stand as they were measured: a curve that rises is flagged, not bent.
    """
    asked: dict[tuple[str, str, int], dict[str, PerImage]] = {}
    for row in evidence.request.rows:
        if found := answers(evidence, row):
            norm, _, eps = row.threat.partition(":")
            asked.setdefault((row.model, norm, row.seed), {})[eps] = found
    lines: list[dict[str, Any]] = []
    for (model, norm, seed), by_eps in asked.items():
        card = evidence.card(model)
        for attack in dict.fromkeys(attack for found in by_eps.values() for attack in found.known()):
            for point in _curve(by_eps, attack):
                head = {"model": card.name, "kind": card.kind, "norm": norm, "attack": attack, "seed": seed}
                lines.append(head | point)
    return pd.DataFrame(lines, columns=COLUMNS)


def _curve(by_eps: dict[str, PerImage], attack: str) -> Iterator[dict[str, Any]]:
    points: list[Point] = [
        (Fraction(eps), eps, found.known()[attack])
        for eps, found in by_eps.items()
        if attack in found.known()
    ]
    if len(points) < 2:
        return
    if all(eps > 0 for eps, _, _ in points):
        points.append((Fraction(0), "0", next(iter(by_eps.values())).clean))
    lowest = 1.0
    for eps, text, values in sorted(points, key=lambda point: point[0]):
        robust = mean(values) or 0.0
        yield {
            "eps": text,
            "eps_value": float(eps),
            "images": len(values),
            **interval(values),
            "flags": RISES if robust > lowest else "",
        }
        lowest = min(lowest, robust)
