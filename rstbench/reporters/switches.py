"""`switch.csv` and `queries.csv`: what a random switch is worth, beside what it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..harness.request import Row
from ..harness.trial import CLEAN
from .evidence import Evidence
from .ladder import MINIMUM, Ladder, bounds, ladders
from .statistics import wilson

COLUMNS = [
    "members", "weights", "rung", "attack", "knows_switch", "threat", "data", "seed", "images", "clean",
    "robust", "robust_low", "robust_high", "lower_bound", "upper_bound",
]  # fmt: skip
QUERIES = (1, 2, 5, 10, 100)
ASKED = [
    "members", "weights", "rung", "attack", "threat", "data", "seed", "images", "queries", "robust",
]  # fmt: skip


def switch(evidence: Evidence) -> pd.DataFrame:
    """One line a rung; beneath them the mean and the best of the members, each on its worst crafted set, and
    the adversarially trained dense network on its own worst attack."""
    lines: list[dict[str, Any]] = []
    for row, ladder in ladders(evidence):
        lower, upper = bounds(ladder.wrong, ladder.weights)
        both = {"lower_bound": round(lower, 6), "upper_bound": round(upper, 6)}
        for rung in ladder.rungs():
            told = {"rung": rung.name, "attack": rung.attack, "knows_switch": str(rung.knows).lower()}
            lines.append(_line(evidence, row, ladder, told, ladder.clean, rung.robust()) | both)
        for name, clean, robust in baselines(evidence, row, ladder):
            lines.append(_line(evidence, row, ladder, {"rung": name}, clean, robust))
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(
    evidence: Evidence, row: Row, ladder: Ladder, told: dict[str, str], clean: np.ndarray, robust: np.ndarray
) -> dict[str, Any]:
    mean = float(robust.mean())
    low, high = wilson(mean, len(robust))
    return _names(evidence, ladder) | {
        "attack": "",
        "knows_switch": "",
        **told,
        "threat": row.threat,
        "data": evidence.request.run["data"],
        "seed": row.seed,
        "images": len(robust),
        "clean": round(float(clean.mean()), 6),
        "robust": round(mean, 6),
        "robust_low": round(low, 6),
        "robust_high": round(high, 6),
    }


def _names(evidence: Evidence, ladder: Ladder) -> dict[str, str]:
    return {
        "members": "+".join(evidence.card(member).name for member in ladder.members),
        "weights": "+".join(f"{weight:.6g}" for weight in ladder.weights),
    }


def queries(evidence: Evidence) -> pd.DataFrame:
    """One line a rung and number of queries: the expected share of images on which that many independent
    draws are all right, each asked about the same adversarial image."""
    lines = [
        {
            **_names(evidence, ladder),
            "rung": rung.name,
            "attack": rung.attack,
            "threat": row.threat,
            "data": evidence.request.run["data"],
            "seed": row.seed,
            "images": rung.right.shape[1],
            "queries": count,
            "robust": round(float(rung.robust(count).mean()), 6),
        }
        for row, ladder in ladders(evidence)
        for rung in ladder.rungs()
        for count in QUERIES
    ]
    return pd.DataFrame(lines, columns=ASKED)


def baselines(evidence: Evidence, row: Row, ladder: Ladder) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, clean, robust) of what a switch is compared with, each (images,): its members' mean, its best
    member, the dense network trained against an adversary under the same seed."""
    members = [ladder.member(place) for place in range(len(ladder.members))]
    clean = ladder.sets["", CLEAN]
    yield "mean-member", ladder.clean, np.asarray(ladder.weights @ np.stack(members))
    best = int(np.argmax([member.mean() for member in members]))
    yield f"best-member {evidence.card(ladder.members[best]).name}", clean[best], members[best]
    dense = [
        (f"dense {evidence.card(other.model).name}", *answers)
        for other in evidence.request.rows
        if (other.threat, other.seed) == (row.threat, row.seed) and _is_dense(evidence, other.model, ladder)
        if (answers := _own_worst(evidence, other))
    ]
    if dense:
        yield max(dense, key=lambda one: float(one[2].mean()))


def _is_dense(evidence: Evidence, model: str, ladder: Ladder) -> bool:
    """Whether it is the adversarially trained dense network of the members' architecture."""
    card, member = evidence.card(model), evidence.card(ladder.members[0])
    same = card.network == member.network and card.total_weights == member.total_weights
    return card.method == "adversarial-training" and same and card.kept_weights == card.total_weights


def _own_worst(evidence: Evidence, row: Row) -> tuple[np.ndarray, np.ndarray] | None:
    """(clean, worst of its own attacks); None where an answer is missing."""
    answers = [evidence.robust(row.model, attack, row.threat, row.seed) for attack in (CLEAN, *row.attacks)]
    known = [answer for answer in answers if answer is not None]
    return (known[0], np.minimum.reduce(known)) if len(known) == len(answers) > 1 else None


def ladder_text(frame: pd.DataFrame) -> Iterator[str]:
    """The rungs of each switch for a terminal."""
    for (members, weights, threat, seed), part in frame.groupby(
        ["members", "weights", "threat", "seed"], sort=False
    ):
        lower, upper = (100 * part.iloc[0][bound] for bound in ("lower_bound", "upper_bound"))
        drawn = "" if len(set(weights.split("+"))) == 1 else f" with weights {weights}"
        yield (
            f"switch of {members}{drawn} at {threat}, seed {seed}: expected accuracy between "
            f"{lower:.1f}% and {upper:.1f}%"
        )
        width = max(len(attack) for attack in part["attack"])
        for _, row in part.iterrows():
            figures = (
                f"{100 * row['robust']:5.1f}%  ({100 * row['robust_low']:.1f}-{100 * row['robust_high']:.1f})"
            )
            name, _, what = row["rung"].partition(" ")
            told = what if not row["knows_switch"] else _told(row)
            yield f"  {name:<11}  {row['attack']:<{width}}  {figures}  {told}".rstrip()


def _told(row: pd.Series) -> str:
    if row["rung"] == MINIMUM:
        return "worst of all, image by image"
    return "knows the switch" if row["knows_switch"] == "true" else "does not know it"
