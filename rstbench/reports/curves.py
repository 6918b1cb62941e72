"""Build the curves of accuracy against eps, for models that were attacked at several eps of one norm."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pandas as pd

from ..flags import MORE_ROBUST_AT_LARGER_EPS
from ..threat import Threat
from .lookup import Evidence
from .per_image import PerImage, per_image_answers
from .statistics import interval, mean

COLUMNS = [
    "model", "kind", "norm", "eps", "eps_value", "attack", "seed", "images", "robust", "robust_low",
    "robust_high", "flags",
]  # fmt: skip


def curves(evidence: Evidence) -> pd.DataFrame:
    """Return one line an eps, for each model, norm, seed and attack (and `worst`) asked at two or more.

    eps 0 is the clean accuracy. Figures stand as they were measured: a curve that rises is flagged, not bent.
    """
    by_norm: dict[tuple[str, str, int], dict[Threat, PerImage]] = {}
    for row in evidence.manifest.rows:
        if answers := per_image_answers(evidence, row):
            threat = Threat.parse(row.threat)
            by_norm.setdefault((row.model, threat.norm, row.seed), {})[threat] = answers
    lines: list[dict[str, Any]] = []
    for (model, norm, seed), by_threat in by_norm.items():
        info = evidence.info(model)
        for attack in dict.fromkeys(attack for answers in by_threat.values() for attack in answers.known()):
            head = {"model": info.name, "kind": info.kind, "norm": norm, "attack": attack, "seed": seed}
            lines += [head | point for point in _curve(by_threat, attack)]
    return pd.DataFrame(lines, columns=COLUMNS)


def _curve(by_threat: dict[Threat, PerImage], attack: str) -> Iterator[dict[str, Any]]:
    """Yield the points of one curve by eps; none where it has only one."""
    points = {
        threat: answers.known()[attack] for threat, answers in by_threat.items() if attack in answers.known()
    }
    if len(points) < 2:
        return
    if all(threat.eps > 0 for threat in points):
        threat, answers = next(iter(by_threat.items()))
        points[Threat(threat.norm, Fraction(0))] = answers.clean
    lowest = 1.0
    for threat, values in sorted(points.items(), key=lambda point: point[0].eps):
        robust = mean(values) or 0.0
        yield {
            "eps": threat.eps_text,
            "eps_value": float(threat.eps),
            "images": len(values),
            **interval(values),
            "flags": MORE_ROBUST_AT_LARGER_EPS.name if robust > lowest else "",
        }
        lowest = min(lowest, robust)
