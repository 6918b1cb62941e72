"""The leaderboard: one line a model, threat and seed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..evidence.manifest import Row
from ..evidence.trial import CLEAN, ShardResult
from .lookup import Evidence
from .per_image import WORST, answers
from .statistics import mean, short, wilson

WIDE_INTERVAL = 0.10  # few-images
JOINT = "joint"  # the attack that fools members of a switch together
SQUARE_HELPS = 0.002  # AutoAttack's own threshold for its Square stage
HEAD = [
    "rank", "model", "kind", "method", "network", "data", "threat", "images", "seed", "remaining",
    "kept_weights", "total_weights", "clean",
]  # fmt: skip
TAIL = ["worst", "worst_low", "worst_high", "flags", "forwards", "backwards", "seconds"]
WHOLE = {"rank": "Int64", "kept_weights": "Int64", "total_weights": "Int64"}


def lines_of(evidence: Evidence) -> list[dict[str, Any]]:
    """One line a model, threat and seed; none for a model without an answer on clean images."""
    return [line for row in evidence.request.rows if (line := _line(evidence, row))]


def rows_of(evidence: Evidence, model: str) -> list[dict[str, Any]]:
    """The lines on one model, by its digest."""
    return [line for row in evidence.request.rows if row.model == model and (line := _line(evidence, row))]


def attacks_of(evidence: Evidence) -> list[str]:
    """Every attack that some row asks for, in the order of the study."""
    return list(dict.fromkeys(attack for row in evidence.request.rows for attack in row.attacks))


def leaderboard(evidence: Evidence) -> pd.DataFrame:
    """One row a model and threat (and seed), ranked by `worst` within each threat.

    A row whose attacks did not all come back has no `worst` and no rank. A model that failed on clean images
    has a row without figures.
    """
    lines = [*lines_of(evidence), *_failed(evidence)]
    frame = pd.DataFrame(lines, columns=[*HEAD, *attacks_of(evidence), *TAIL])
    threats = {row.threat: place for place, row in enumerate(reversed(evidence.request.rows))}
    frame["rank"] = frame.groupby("threat", sort=False)["worst"].rank(method="min", ascending=False)
    frame = frame.sort_values(
        ["threat", "worst", "model", "seed"],
        ascending=[True, False, True, True],
        key=lambda column: -column.map(threats) if column.name == "threat" else column,
        na_position="last",
        ignore_index=True,
    )
    return frame.astype({name: kind for name, kind in WHOLE.items() if name in frame})


def _line(evidence: Evidence, row: Row) -> dict[str, Any] | None:
    card, n, found = evidence.card(row.model), evidence.request.images, answers(evidence, row)
    if found is None:
        return None
    cells = {attack: mean(values) for attack, values in found.attacks.items()}
    worst = mean(found.worst)
    low, high = wilson(worst, n) if worst is not None else (None, None)
    tallies = [
        tally
        for attack in (CLEAN, *row.attacks)
        for tally in evidence.tallies(row.model, attack, row.threat, row.seed)
    ]
    return {
        "setting": card.family or _repeated(evidence, row.model),
        "ratio": card.ratio,
        "made_seconds": card.made_seconds,
        "made_mib": card.made_mib,
        **_about(evidence, row),
        "clean": mean(found.clean),
        **cells,
        "worst": worst,
        "worst_low": short(low),
        "worst_high": short(high),
        "flags": " ".join(sorted(_flags(evidence, row, {**cells, WORST: worst}, low, high))),
        "forwards": round(sum(tally.forwards * _share(tally, n) for tally in tallies) / n, 1),
        "backwards": round(sum(tally.backwards * _share(tally, n) for tally in tallies) / n, 1),
        "seconds": round(sum(tally.seconds for tally in tallies), 1),
    }


def _about(evidence: Evidence, row: Row) -> dict[str, Any]:
    """The columns that stand before any figure."""
    card = evidence.card(row.model)
    return {
        "model": card.name,
        "kind": card.kind,
        "method": card.method,
        "network": card.network,
        "data": evidence.request.run["data"],
        "threat": row.threat,
        "images": evidence.request.images,
        "seed": row.seed,
        "remaining": card.remaining,
        "kept_weights": card.kept_weights,
        "total_weights": card.total_weights,
    }


def _failed(evidence: Evidence) -> list[dict[str, Any]]:
    """A line without figures for each row of a model without an answer on clean images, once a run with
    failures is over."""
    if not evidence.request.failures:
        return []
    return [
        _about(evidence, row) | {"flags": ""} for row in evidence.request.rows if not answers(evidence, row)
    ]


def _repeated(evidence: Evidence, model: str) -> str:
    """The name of a model that was asked at several seeds of the attack, else ''."""
    seeds = {row.seed for row in evidence.request.rows if row.model == model}
    return evidence.card(model).name if len(seeds) > 1 else ""


def _share(tally: ShardResult, images: int) -> float:
    """The part of a shard that lies among the first `images`."""
    return min(1.0, (images - tally.start) / len(tally.bits))


def _flags(
    evidence: Evidence, row: Row, cells: dict[str, float | None], low: float | None, high: float | None
) -> set[str]:
    flags = set(evidence.card(row.model).flags)
    for attack in (CLEAN, *row.attacks):
        flags |= evidence.all_flags(row.model, attack, row.threat, row.seed)
        if _square_helps(evidence, row, attack):
            flags.add("square-beats-gradient")
    if _transfer_wins(evidence, row, cells):
        flags.add("transfer-beats-white-box")
    if evidence.card(row.model).members and not any(
        attack.partition(":")[0] == JOINT for attack in row.attacks
    ):
        flags.add("not-attacked-jointly")
    if low is not None and high is not None and high - low > WIDE_INTERVAL:
        flags.add("few-images")
    auto = [cell for attack, cell in cells.items() if attack.startswith("autoattack") and cell is not None]
    pgd = [cell for attack, cell in cells.items() if attack.startswith("pgd") and cell is not None]
    if auto and pgd and max(auto) > min(pgd):
        flags.add("weaker-than-pgd")
    return flags


def _square_helps(evidence: Evidence, row: Row, attack: str) -> bool:
    tallies = evidence.tallies(row.model, attack, row.threat, row.seed)
    broken = sum(tally.stages.get("square", "").count("1") for tally in tallies)
    gradient = any(stage != "square" for tally in tallies for stage in tally.stages)
    return gradient and broken > SQUARE_HELPS * evidence.request.images


def _transfer_wins(evidence: Evidence, row: Row, cells: dict[str, float | None]) -> bool:
    """Whether a set of images crafted elsewhere fools this model more often than its own by the same attack
    do, or than all its own together."""
    if evidence.card(row.model).members:
        return False
    for source, target, attack, threat, seed in evidence.records:
        if target == row.model != source and (threat, seed) == (row.threat, row.seed):
            own = cells.get(attack) if cells.get(attack) is not None else cells[WORST]
            bits = evidence.bits(source, target, attack, threat, seed)
            if own is not None and bits is not None and float(bits.mean()) < own - 1e-6:
                return True
    return False
