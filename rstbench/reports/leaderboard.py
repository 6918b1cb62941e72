"""Build the leaderboard: one line a model, threat and seed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .. import flags
from ..evidence.manifest import Row
from ..evidence.part import is_part
from ..evidence.trial import CLEAN, ShardResult, attack_family
from .certified import contradiction
from .lookup import AUTOATTACK, Evidence
from .per_image import WORST, per_image_answers
from .statistics import confidence_interval, mean, short

WIDE_INTERVAL = 0.10  # of the worst case, from which flags.FEW_IMAGES is raised
JOINT = "joint"  # the attack that fools members of a switch together
SCREEN, SCREEN_MISSES = "screen", 0.005  # of accuracy above AutoAttack's, from which that is told
SQUARE_HELPS = 0.002  # AutoAttack's own threshold for its Square stage
# The columns in order with the kind of their values: text, integer, percent or number. `_line` computes them;
# the attacks stand between HEAD and TAIL, as percentages, and what certificates tell, where any were asked,
# after `worst_high`.
HEAD = {
    "rank": "integer", "model": "text", "kind": "text", "method": "text", "network": "text", "data": "text",
    "threat": "text", "images": "integer", "seed": "integer", "remaining": "number",
    "kept_weights": "integer", "total_weights": "integer", "clean": "percent",
}  # fmt: skip
TAIL = {
    "worst": "percent", "worst_low": "percent", "worst_high": "percent", "flags": "text",
    "forwards": "number", "backwards": "number", "seconds": "number",
}  # fmt: skip
CERTIFIED = {"certified": "percent", "open": "percent"}
KINDS = HEAD | TAIL | CERTIFIED
HIDDEN = ["kind", "method", "network", "data", "total_weights", "seconds"]  # in a terminal


def lines_of(evidence: Evidence, model: str | None = None) -> list[dict[str, Any]]:
    """Return one line a model, threat and seed; none for a model without an answer on clean images.

    model: the digest of the only model that is wanted.
    """
    rows = [row for row in evidence.manifest.rows if model in (None, row.model)]
    return [line for row in rows if (line := _line(evidence, row))]


def attacks_of(evidence: Evidence) -> list[str]:
    """Return every attack that some row asks for, in the order of the study."""
    return list(dict.fromkeys(attack for row in evidence.manifest.rows for attack in row.attacks))


def leaderboard(evidence: Evidence) -> pd.DataFrame:
    """Return one row a model, threat and seed, ranked by `worst` within each threat.

    A row whose attacks did not all come back has no `worst` and no rank. A model that failed on clean images
    has a row without figures, and so has one whose evidence contradicts itself.
    """
    lines = [*lines_of(evidence), *_failed(evidence)]
    frame = pd.DataFrame(lines, columns=columns(evidence))
    threats = {row.threat: index for index, row in enumerate(reversed(evidence.manifest.rows))}
    frame["rank"] = frame.groupby("threat", sort=False)["worst"].rank(method="min", ascending=False)
    frame = frame.sort_values(
        ["threat", "worst", "model", "seed"],
        ascending=[True, False, True, True],
        key=lambda column: -column.map(threats) if column.name == "threat" else column,
        na_position="last",
        ignore_index=True,
    )
    return frame.astype({name: "Int64" for name, kind in KINDS.items() if kind == "integer"})


def columns(evidence: Evidence) -> list[str]:
    """Return the columns of the leaderboard of a request."""
    tail = list(TAIL)
    if any(row.certificates for row in evidence.manifest.rows):
        place = tail.index("worst_high") + 1
        tail[place:place] = CERTIFIED
    return [*HEAD, *attacks_of(evidence), *tail]


def row_text(row: pd.Series, attacks: list[str]) -> str:
    """Return a row of the leaderboard as one line, `rst-0.2 at Linf:0.1: clean 99.0 %, …, worst 82.0 %`."""
    figures = [name for name in ("clean", *attacks, WORST) if pd.notna(row[name])]
    return f"{row['model']} at {row['threat']}: " + ", ".join(
        f"{name} {100 * row[name]:.1f} %" for name in figures
    )


def _line(evidence: Evidence, row: Row) -> dict[str, Any] | None:
    info, n, answers = evidence.info(row.model), evidence.manifest.images, per_image_answers(evidence, row)
    if answers is None:
        return None
    cells = {attack: mean(values) for attack, values in answers.attacks.items()}
    worst = mean(answers.worst)
    low, high = confidence_interval(worst, n) if worst is not None else (None, None)
    certified = mean(answers.certified)
    shards = [
        shard
        for attack in (CLEAN, *row.attacks)
        for shard in evidence.shards(row.model, attack, row.threat, row.seed)
    ]
    return {
        "setting": info.family or _repeated(evidence, row.model),
        "ratio": info.ratio,
        "made_seconds": info.made_seconds,
        "made_mib": info.made_mib,
        **_about(evidence, row),
        "clean": mean(answers.clean),
        **cells,
        "worst": worst,
        "worst_low": short(low),
        "worst_high": short(high),
        "certified": certified,
        "open": None if worst is None or certified is None else short(worst - certified),
        "flags": " ".join(sorted(_flags(evidence, row, {**cells, WORST: worst}, low, high))),
        "forwards": round(sum(shard.forwards * _share(shard, n) for shard in shards) / n, 1),
        "backwards": round(sum(shard.backwards * _share(shard, n) for shard in shards) / n, 1),
        "seconds": round(sum(shard.seconds for shard in shards), 1),
    }


def _about(evidence: Evidence, row: Row) -> dict[str, Any]:
    """Return the columns that stand before any accuracy."""
    info = evidence.info(row.model)
    return {
        "model": info.name,
        "kind": info.kind,
        "method": info.method,
        "network": info.network,
        **evidence.question(row),
        "images": evidence.manifest.images,
        "remaining": info.remaining,
        "kept_weights": info.kept_weights,
        "total_weights": info.total_weights,
    }


def _failed(evidence: Evidence) -> list[dict[str, Any]]:
    """Return a line without figures for each row whose model failed on clean images, or that contradicts
    itself.

    Where other machines answer the rest of a study, no answer is no failure.
    """
    has_failures = bool(evidence.manifest.failures) and not is_part(evidence.manifest.run)
    failed = [
        row
        for row in evidence.manifest.rows
        if contradiction(evidence, row) or (has_failures and not per_image_answers(evidence, row))
    ]
    empty = {name: "" for name, kind in KINDS.items() if kind == "text"}
    return [empty | _about(evidence, row) for row in failed]


def _repeated(evidence: Evidence, model: str) -> str:
    """Return the name of a model that was attacked at several seeds, else ''."""
    seeds = {row.seed for row in evidence.manifest.rows if row.model == model}
    return evidence.info(model).name if len(seeds) > 1 else ""


def _share(shard: ShardResult, images: int) -> float:
    """Return the part of a shard that lies among the first `images`."""
    return min(1.0, (images - shard.start) / len(shard.bits))


def _flags(
    evidence: Evidence, row: Row, cells: dict[str, float | None], low: float | None, high: float | None
) -> set[str]:
    raised = set(evidence.info(row.model).flags)
    for attack in (CLEAN, *row.attacks):
        raised |= evidence.all_flags(row.model, attack, row.threat, row.seed)
        if _square_helps(evidence, row, attack):
            raised.add(flags.SQUARE_BEATS_GRADIENT.name)
    if _transfer_wins(evidence, row, cells):
        raised.add(flags.TRANSFER_BEATS_WHITE_BOX.name)
    if evidence.info(row.model).members and JOINT not in map(attack_family, row.attacks):
        raised.add(flags.NOT_ATTACKED_JOINTLY.name)
    if low is not None and high is not None and high - low > WIDE_INTERVAL:
        raised.add(flags.FEW_IMAGES.name)
    autoattack, pgd = (_accuracies(cells, family) for family in (AUTOATTACK, "pgd"))
    if autoattack and pgd and max(autoattack) > min(pgd):
        raised.add(flags.WEAKER_THAN_PGD.name)
    screen = _accuracies(cells, SCREEN)
    if autoattack and screen and min(screen) > min(autoattack) + SCREEN_MISSES:
        raised.add(flags.SCREEN_ABOVE_AUTOATTACK.name)
    return raised


def _accuracies(cells: dict[str, float | None], family: str) -> list[float]:
    """Return the accuracies under the attacks of one family that have an answer."""
    return [cell for attack, cell in cells.items() if attack_family(attack) == family and cell is not None]


def _square_helps(evidence: Evidence, row: Row, attack: str) -> bool:
    shards = evidence.shards(row.model, attack, row.threat, row.seed)
    broken = sum(shard.stages.get("square", "").count("1") for shard in shards)
    has_gradient_stage = any(stage != "square" for shard in shards for stage in shard.stages)
    return has_gradient_stage and broken > SQUARE_HELPS * evidence.manifest.images


def _transfer_wins(evidence: Evidence, row: Row, cells: dict[str, float | None]) -> bool:
    """Return whether images crafted elsewhere fool a model more often than its own do.

    Its own are those by the same attack, or all together where it was not asked that attack.
    """
    if evidence.info(row.model).members:
        return False
    for source, target, attack, threat, seed in evidence.records:
        if target == row.model != source and (threat, seed) == (row.threat, row.seed):
            own = cells.get(attack) if cells.get(attack) is not None else cells[WORST]
            bits = evidence.bits(source, target, attack, threat, seed)
            if own is not None and bits is not None and float(bits.mean()) < own - 1e-6:
                return True
    return False
