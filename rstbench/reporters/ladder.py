"""What a random switch is worth: the rungs of `switch.csv`, and the bounds they lie between.

T0 is the paper's protocol: attacker and defender draw a member independently, and the attack stops
at its first success. T1 is T0 without that stop. The others know the switch: T2 is PGD and APGD on the exact
expectation over its members, T3 AutoAttack on their mean probability, T4 ARC, T5 the greedy joint attack.
`minimum` takes for each image the worst of all crafted sets. Every rung is an exact expectation over the
members that answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..harness.trial import CLEAN
from .evidence import EARLY_STOP, Evidence, base_attack
from .statistics import wilson

RUNGS = {"pgd": "T2", "apgd": "T2", "autoattack": "T3", "arc": "T4", "joint": "T5"}
COLUMNS = [
    "members", "weights", "rung", "attack", "knows_switch", "threat", "data", "seed", "images", "clean",
    "robust", "robust_low", "robust_high", "lower_bound", "upper_bound",
]  # fmt: skip


def switch(evidence: Evidence) -> pd.DataFrame:
    """All rungs of every switch of the request, by threat and seed."""
    lines: list[dict[str, Any]] = []
    for row in evidence.request.rows:
        if evidence.card(row.model).members:
            lines += _ladder(evidence, row.model, row.threat, row.seed)
    return pd.DataFrame(lines, columns=COLUMNS)


def _ladder(evidence: Evidence, model: str, threat: str, seed: int) -> list[dict[str, Any]]:
    weights = np.array([weight for _, weight in evidence.members(model)])
    sets = crafted_sets(evidence, model, threat, seed)
    clean = sets.get(("", CLEAN))
    if clean is None:
        return []
    rungs: list[tuple[str, str, bool, np.ndarray]] = []
    member_sets = {key: bits for key, bits in sets.items() if key[0] not in ("", model)}
    for attack in sorted({attack for _, attack in member_sets if not attack.startswith("autoattack")}):
        matrix = [member_sets[m, attack] for m, _ in evidence.members(model) if (m, attack) in member_sets]
        if len(matrix) == len(weights):
            # The attacker draws a member with the same probabilities as the defender.
            mean = sum(w * (weights @ bits) for w, bits in zip(weights, matrix, strict=True))
            rungs.append(
                ("T0" if EARLY_STOP in attack else "T1", base_attack(attack), False, np.asarray(mean))
            )
    for (source, attack), bits in sets.items():
        if source == model:
            rungs.append((_rung(attack), attack, True, weights @ bits))
    wrong = 1 - np.stack(list(sets.values()))  # (sets, members, images)
    rungs.append(("minimum", "", True, 1 - expected_error(wrong, weights)))
    lower, upper = bounds(wrong, weights)
    names = "+".join(evidence.card(member).name for member, _ in evidence.members(model))
    lines = []
    for rung, attack, knows, values in sorted(rungs, key=lambda rung: rung[:2]):
        robust = float(values.mean())
        low, high = wilson(robust, len(values))
        lines.append(
            {
                "members": names,
                "weights": "+".join(f"{weight:.6g}" for weight in weights),
                "rung": rung,
                "attack": attack,
                "knows_switch": str(knows).lower(),
                "threat": threat,
                "data": evidence.request.run["data"],
                "seed": seed,
                "images": len(values),
                "clean": round(float((weights @ clean).mean()), 6),
                "robust": round(robust, 6),
                "robust_low": round(low, 6),
                "robust_high": round(high, 6),
                "lower_bound": round(lower, 6),
                "upper_bound": round(upper, 6),
            }
        )
    return lines


def ladder_text(frame: pd.DataFrame) -> Iterator[str]:
    """The rungs of each switch for a terminal."""
    for (members, threat, seed), part in frame.groupby(["members", "threat", "seed"], sort=False):
        first = part.iloc[0]
        yield (
            f"switch of {members} at {threat}, seed {seed}: expected accuracy between "
            f"{100 * first['lower_bound']:.1f}% and {100 * first['upper_bound']:.1f}%"
        )
        width = max(len(attack) for attack in part["attack"])
        for _, row in part.iterrows():
            knows = "knows the switch" if row["knows_switch"] == "true" else "does not know it"
            figures = (
                f"{100 * row['robust']:5.1f}%  ({100 * row['robust_low']:.1f}-{100 * row['robust_high']:.1f})"
            )
            told = "worst of all, image by image" if row["rung"] == "minimum" else knows
            yield f"  {row['rung']:<7}  {row['attack']:<{width}}  {figures}  {told}"


def _rung(attack: str) -> str:
    """The rung of an attack that knows the switch."""
    return RUNGS.get(attack.partition(":")[0], "other")


def crafted_sets(evidence: Evidence, model: str, threat: str, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """Every set of images crafted for the switch or a member and judged by all members: (source,
    attack) -> bits (members, images). The clean images, ('', 'clean'), are one of them."""
    members = [member for member, _ in evidence.members(model)]
    asked = {
        (source, attack)
        for source, _, attack, its_threat, its_seed in evidence.records
        if source in (*members, model) and its_threat == threat and its_seed == seed
    }
    sets = {}
    for source, attack in [("", CLEAN), *sorted(asked)]:
        bits = [evidence.bits(source, member, attack, threat, seed) for member in members]
        if all(found is not None for found in bits):
            sets[(source, attack)] = np.stack([found for found in bits if found is not None])
    return sets


def expected_error(wrong: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Per image the largest expected error over all sets; wrong: (sets, members, images)."""
    largest: np.ndarray = np.einsum("m,smi->si", weights, wrong).max(0)
    return largest


def bounds(wrong: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """(lower, upper) bound of the accuracy of a switch: with w the weights and e the members' errors
    over all sets, max_i w_i e_i <= e <= sum_i w_i e_i holds image by image, here averaged.

    Accuracies: 1 - mean(sum_i w_i e_i) and 1 - mean(max_i w_i e_i). wrong: (sets, members, images).
    """
    weighted = weights[:, None] * wrong.max(0)
    return 1 - float(weighted.sum(0).mean()), 1 - float(weighted.max(0).mean())
