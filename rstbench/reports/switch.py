"""Build `switch.csv` and `queries.csv`: what a random switch is worth, beside what it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..evidence.manifest import Row
from ..evidence.trial import CLEAN
from .certified import certified
from .compare import COLUMNS as COMPARE_COLUMNS
from .compare import comparison, is_dense, of_architecture
from .lookup import Evidence
from .per_image import per_image_answers
from .statistics import LEVEL, interval, mean, short
from .switch_bounds import MINIMUM, SwitchBits, bounds, switches

COLUMNS = [
    "members", "weights", "rung", "attack", "knows_switch", "threat", "data", "seed", "images", "clean",
    "robust", "robust_low", "robust_high", "lower_bound", "upper_bound",
]  # fmt: skip
CERTIFIED = "certified"
BY_SWITCH = ["members", "weights", "threat", "seed"]  # columns that tell the lines of one switch from others
QUERIES = (1, 2, 5, 10, 100)
QUERY_COLUMNS = [
    "members", "weights", "rung", "attack", "threat", "data", "seed", "images", "queries", "robust",
]  # fmt: skip


def switch(evidence: Evidence) -> pd.DataFrame:
    """Return one line an attacker of each switch, and one for each of its baselines.

    The column `certified` is there only where certificates were asked: what holds whatever the attacker.
    """
    lines: list[dict[str, Any]] = []
    found = list(switches(evidence))
    for row, bits in found:
        lower, upper = bounds(bits.errors, bits.weights)
        proved = certified(evidence, row)
        for result in bits.attackers():
            line = {
                "rung": result.level,
                "attack": result.attack,
                "knows_switch": str(result.knows_switch).lower(),
                "lower_bound": short(lower),
                "upper_bound": short(upper),
                CERTIFIED: None if proved is None else mean(proved),
            }
            lines.append(line | _figures(evidence, row, bits, bits.clean, result.robust()))
        for baseline in baselines(evidence, row, bits):
            line = {"rung": f"{baseline.role} {baseline.name}".rstrip(), "attack": "", "knows_switch": ""}
            lines.append(line | _figures(evidence, row, bits, baseline.clean, baseline.robust))
    asked = any(row.certificates for row, _ in found)
    return pd.DataFrame(lines, columns=[*COLUMNS, CERTIFIED] if asked else COLUMNS)


def _figures(
    evidence: Evidence, row: Row, bits: SwitchBits, clean: np.ndarray, robust: np.ndarray
) -> dict[str, Any]:
    return _question(evidence, row, bits) | {"images": len(robust), "clean": mean(clean), **interval(robust)}


def _question(evidence: Evidence, row: Row, bits: SwitchBits) -> dict[str, Any]:
    return {
        "members": "+".join(evidence.info(member).name for member in bits.members),
        "weights": "+".join(f"{weight:.6g}" for weight in bits.weights),
        **evidence.question(row),
    }


def queries(evidence: Evidence) -> pd.DataFrame:
    """Return one line an attacker and number of queries.

    `robust` is the expected share of images on which that many independent draws are all right, each asked
    about the same adversarial image.
    """
    lines = [
        _question(evidence, row, bits)
        | {
            "rung": result.level,
            "attack": result.attack,
            "images": result.right.shape[1],
            "queries": count,
            "robust": mean(result.robust(count)),
        }
        for row, bits in switches(evidence)
        for result in bits.attackers()
        for count in QUERIES
    ]
    return pd.DataFrame(lines, columns=QUERY_COLUMNS)


def compare_switches(evidence: Evidence) -> pd.DataFrame:
    """Return the lines of compare.csv of each switch, on the worst of all crafted sets."""
    lines = [
        comparison(bits.attackers()[-1].robust(), baseline.robust)
        | {
            "model": evidence.info(row.model).name,
            "baseline": baseline.name,
            "role": baseline.role,
            "attack": MINIMUM,
            **evidence.question(row),
        }
        for row, bits in switches(evidence)
        for baseline in baselines(evidence, row, bits)
    ]
    return pd.DataFrame(lines, columns=COMPARE_COLUMNS)


@dataclass(frozen=True)
class Baseline:
    """A model that a switch is compared with; clean, robust: (images,)."""

    role: str
    name: str
    clean: np.ndarray
    robust: np.ndarray


def baselines(evidence: Evidence, row: Row, bits: SwitchBits) -> Iterator[Baseline]:
    """Yield the baselines of a switch.

    They are the mean of its members and the best of them, each on its worst crafted set, and the best dense
    network of their architecture that was trained against an adversary, on its own worst attack.
    """
    members = np.stack([bits.member(index) for index in range(len(bits.members))])
    yield Baseline("mean-member", "", bits.clean, bits.weights @ members)
    best = int(members.mean(1).argmax())
    name = evidence.info(bits.members[best]).name
    yield Baseline("best-member", name, bits.sets["", CLEAN][best], members[best])
    dense = {
        other.model: Baseline("dense", evidence.info(other.model).name, answers.clean, answers.worst)
        for other in evidence.manifest.rows
        if (other.threat, other.seed) == (row.threat, row.seed)
        and is_dense(evidence.info(other.model))
        and (answers := per_image_answers(evidence, other)) is not None
        and answers.worst is not None
    }
    network = evidence.info(bits.members[0]).network
    if same := of_architecture(network, {model: evidence.info(model) for model in dense}):
        yield max((dense[model] for model in same), key=lambda baseline: float(baseline.robust.mean()))


def switch_text(frame: pd.DataFrame) -> Iterator[str]:
    """Yield switch.csv for a terminal."""
    for (members, weights, threat, seed), part in frame.groupby(BY_SWITCH, sort=False):
        lower, upper = (100 * part.iloc[0][bound] for bound in ("lower_bound", "upper_bound"))
        unequal = "" if len(set(weights.split("+"))) == 1 else f" with weights {weights}"
        yield (
            f"switch of {members}{unequal} at {threat}, seed {seed}: the members' errors on all crafted "
            f"sets allow {lower:.1f}% to {upper:.1f}%{_certified_text(part)}"
        )
        width = max(len(attack) for attack in part["attack"])
        for _, row in part.iterrows():
            robust, low, high = (100 * row[name] for name in ("robust", "robust_low", "robust_high"))
            name, _, baseline = row["rung"].partition(" ")
            note = _note(row) if row["knows_switch"] else baseline
            figures = f"{robust:5.1f}%  ({low:.1f}-{high:.1f})"
            yield f"  {name:<11}  {row['attack']:<{width}}  {figures}  {note}".rstrip()


def _certified_text(part: pd.DataFrame) -> str:
    proved = part.iloc[0].get(CERTIFIED)
    return "" if proved is None or pd.isna(proved) else f"; certified under any attacker {100 * proved:.1f}%"


def _note(row: pd.Series) -> str:
    if row["rung"] == MINIMUM:
        return "worst of all, image by image"
    return "knows the switch" if row["knows_switch"] == "true" else "does not know it"


def comparison_text(frame: pd.DataFrame) -> Iterator[str]:
    """Yield, for a terminal, what each switch gains over its baselines; frame: compare.csv."""
    lines = frame[frame["attack"] == MINIMUM]
    for (model, threat, seed), part in lines.groupby(["model", "threat", "seed"], sort=False):
        yield f"{model} at {threat}, seed {seed}, worst of all: points more than ({LEVEL} interval)"
        for _, row in part.iterrows():
            low, high = 100 * row["difference_low"], 100 * row["difference_high"]
            figures = f"{100 * row['difference']:+5.1f}  ({low:+.1f} to {high:+.1f})"
            yield f"  {row['role']:<11}  {figures}  {row['verdict']}  {row['baseline']}".rstrip()
