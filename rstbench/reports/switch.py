"""`switch.csv` and `queries.csv`: what a random switch is worth, beside what it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..evidence.manifest import Row
from ..evidence.trial import CLEAN
from .compare import COLUMNS as COMPARED
from .compare import comparison, is_dense, of_architecture
from .lookup import Evidence
from .per_image import answers
from .statistics import interval, mean, short
from .switch_bounds import MINIMUM, Ladder, bounds, ladders

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
        both = {"lower_bound": short(lower), "upper_bound": short(upper)}
        for rung in ladder.rungs():
            told = {"rung": rung.name, "attack": rung.attack, "knows_switch": str(rung.knows).lower()}
            lines.append(_line(evidence, row, ladder, told, ladder.clean, rung.robust()) | both)
        for other in baselines(evidence, row, ladder):
            told = {"rung": f"{other.role} {other.name}".rstrip()}
            lines.append(_line(evidence, row, ladder, told, other.clean, other.robust))
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(
    evidence: Evidence, row: Row, ladder: Ladder, told: dict[str, str], clean: np.ndarray, robust: np.ndarray
) -> dict[str, Any]:
    return _names(evidence, ladder) | {
        "attack": "",
        "knows_switch": "",
        **told,
        "threat": row.threat,
        "data": evidence.request.run["data"],
        "seed": row.seed,
        "images": len(robust),
        "clean": mean(clean),
        **interval(robust),
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
            "robust": mean(rung.robust(count)),
        }
        for row, ladder in ladders(evidence)
        for rung in ladder.rungs()
        for count in QUERIES
    ]
    return pd.DataFrame(lines, columns=ASKED)


def gains(evidence: Evidence) -> pd.DataFrame:
    """Lines of compare.csv: each switch on the worst of all crafted sets, against its baselines."""
    lines = [
        comparison(
            ladder.rungs()[-1].robust(),
            other.robust,
            model=evidence.card(row.model).name,
            baseline=other.name,
            role=other.role,
            attack=MINIMUM,
            threat=row.threat,
            data=evidence.request.run["data"],
            seed=row.seed,
        )
        for row, ladder in ladders(evidence)
        for other in baselines(evidence, row, ladder)
    ]
    return pd.DataFrame(lines, columns=COMPARED)


@dataclass(frozen=True)
class Baseline:
    """What a switch is compared with; clean, robust: (images,)."""

    role: str
    name: str
    clean: np.ndarray
    robust: np.ndarray


def baselines(evidence: Evidence, row: Row, ladder: Ladder) -> Iterator[Baseline]:
    """The mean of its members and the best of them, each on its worst crafted set; the best dense network of
    their architecture that was trained against an adversary, on its own worst attack."""
    members = np.stack([ladder.member(place) for place in range(len(ladder.members))])
    yield Baseline("mean-member", "", ladder.clean, ladder.weights @ members)
    best = int(members.mean(1).argmax())
    name = evidence.card(ladder.members[best]).name
    yield Baseline("best-member", name, ladder.sets["", CLEAN][best], members[best])
    dense = {
        other.model: Baseline("dense", evidence.card(other.model).name, found.clean, found.worst)
        for other in evidence.request.rows
        if (other.threat, other.seed) == (row.threat, row.seed)
        and is_dense(evidence.card(other.model))
        and (found := answers(evidence, other)) is not None
        and found.worst is not None
    }
    network = evidence.card(ladder.members[0]).network
    if known := of_architecture(network, {model: evidence.card(model) for model in dense}):
        yield max((dense[model] for model in known), key=lambda one: float(one.robust.mean()))


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


def gains_text(frame: pd.DataFrame) -> Iterator[str]:
    """What each switch gains over its members and the dense network, for a terminal; frame: compare.csv."""
    switches = frame[frame["attack"] == MINIMUM]
    for (model, threat, seed), part in switches.groupby(["model", "threat", "seed"], sort=False):
        yield f"{model} at {threat}, seed {seed}, worst of all: points more than (95% interval)"
        for _, row in part.iterrows():
            low, high = 100 * row["difference_low"], 100 * row["difference_high"]
            figures = f"{100 * row['difference']:+5.1f}  ({low:+.1f} to {high:+.1f})"
            yield f"  {row['role']:<11}  {figures}  {row['verdict']}  {row['baseline']}".rstrip()
