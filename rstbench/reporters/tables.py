"""Tables as views of the evidence: everything is computed from per-image bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..harness.request import Row
from ..harness.store import write_whole
from ..harness.trial import CLEAN, Tally
from .evidence import EARLY_STOP, Evidence, base_attack
from .ladder import ladder_text, switch
from .published import comparable, comparable_transfer
from .ratios import is_worth_it, ratios, ratios_text
from .statistics import wilson

WIDE_INTERVAL = 0.10  # few-images
SQUARE_HELPS = 0.002  # AutoAttack's own threshold for its Square stage
HEAD = [
    "rank", "model", "kind", "method", "network", "data", "threat", "images", "seed", "remaining",
    "kept_weights", "total_weights", "clean",
]  # fmt: skip
TAIL = ["worst", "worst_low", "worst_high", "flags", "forwards", "backwards", "seconds"]
TRANSFER = [
    "source", "target", "source_remaining", "target_remaining", "attack", "early_stop", "threat", "data",
    "images", "robust",
]  # fmt: skip
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

    A row whose attacks did not all come back has no `worst` and no rank.
    """
    frame = pd.DataFrame(lines_of(evidence), columns=[*HEAD, *attacks_of(evidence), *TAIL])
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
    card, n = evidence.card(row.model), evidence.request.images
    clean = evidence.robust(row.model, CLEAN, row.threat, row.seed)
    if clean is None:
        return None
    answers = {attack: evidence.robust(row.model, attack, row.threat, row.seed) for attack in row.attacks}
    cells = {attack: _mean(answer) for attack, answer in answers.items()}
    complete = bool(answers) and all(answer is not None for answer in answers.values())
    # The clean image lies in the ball: a model that is wrong on it is not robust.
    worst = np.minimum.reduce([clean, *(a for a in answers.values() if a is not None)])
    mean = _mean(worst) if complete else None
    low, high = wilson(mean, n) if mean is not None else (None, None)
    tallies = [
        tally
        for attack in (CLEAN, *row.attacks)
        for tally in evidence.tallies(row.model, attack, row.threat, row.seed)
    ]
    return {
        "setting": card.family,
        "ratio": card.ratio,
        "made_seconds": card.made_seconds,
        "made_mib": card.made_mib,
        "model": card.name,
        "kind": card.kind,
        "method": card.method,
        "network": card.network,
        "data": evidence.request.run["data"],
        "threat": row.threat,
        "images": n,
        "seed": row.seed,
        "remaining": card.remaining,
        "kept_weights": card.kept_weights,
        "total_weights": card.total_weights,
        "clean": _mean(clean),
        **cells,
        "worst": mean,
        "worst_low": _short(low),
        "worst_high": _short(high),
        "flags": " ".join(sorted(_flags(evidence, row, cells, low, high))),
        "forwards": round(sum(tally.forwards * _share(tally, n) for tally in tallies) / n, 1),
        "backwards": round(sum(tally.backwards * _share(tally, n) for tally in tallies) / n, 1),
        "seconds": round(sum(tally.seconds for tally in tallies), 1),
    }


def _share(tally: Tally, images: int) -> float:
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
        if _transfer_wins(evidence, row, attack, cells.get(attack)):
            flags.add("transfer-beats-white-box")
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


def _transfer_wins(evidence: Evidence, row: Row, attack: str, own: float | None) -> bool:
    """Whether images crafted elsewhere by the same attack fool this model more often than its own."""
    if own is None or evidence.card(row.model).members:
        return False
    others = (
        evidence.bits(source, row.model, attack, row.threat, row.seed)
        for source in evidence.request.cards
        if source != row.model
    )
    return any(bits is not None and float(bits.mean()) < own - 1e-6 for bits in others)


def transfer(evidence: Evidence) -> pd.DataFrame:
    """Long form: one line a source, target, attack and threat, of models judged by one another."""
    lines = [
        {
            "source": evidence.card(source).name,
            "target": evidence.card(target).name,
            "source_remaining": evidence.card(source).remaining,
            "target_remaining": evidence.card(target).remaining,
            "attack": base_attack(attack),
            "early_stop": str(EARLY_STOP in attack).lower(),
            "threat": threat,
            "data": evidence.request.run["data"],
            "images": evidence.request.images,
            "robust": _mean(bits),
        }
        for group in evidence.request.groups
        for attack, threat, seed in _asked(evidence, group)
        if not attack.startswith(("autoattack", CLEAN))
        for source in group
        for target in group
        if (bits := evidence.bits(source, target, attack, threat, seed)) is not None
    ]
    return pd.DataFrame(lines, columns=TRANSFER)


def _asked(evidence: Evidence, group: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """(attack, threat, seed) by which the models of a group were attacked, sorted."""
    return sorted({key[2:] for key in evidence.records if key[0] in group and key[1] in group and key[3]})


def write(evidence: Evidence, root: Path, own: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """Writes leaderboard.csv, ratios.csv where there are settings to compare, transfer.csv where models
    were crossed, switch.csv where there is a switch, published.csv where figures are quoted on the same data
    and threat; own: a user's quoted rows."""
    frames = {"leaderboard": leaderboard(evidence)} if evidence.request.rows else {}
    compared = ratios(lines_of(evidence), attacks_of(evidence))
    if is_worth_it(compared):
        frames["ratios"] = compared
    if evidence.request.groups:
        frames["transfer"] = transfer(evidence)
    if any(card.members for card in evidence.request.cards.values()):
        frames["switch"] = switch(evidence)
    quoted = {"published": comparable(evidence, own), "published_transfer": comparable_transfer(evidence)}
    frames |= {name: frame for name, frame in quoted.items() if len(frame)}
    for name, frame in frames.items():
        write_whole(root / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n").encode())
    for name in {"leaderboard", "ratios", "transfer", "switch", *quoted} - set(frames):
        (root / f"{name}.csv").unlink(missing_ok=True)
    return frames


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None else _short(float(values.mean()))


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def as_text(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """What a terminal shows: the leaderboard, and the comparison of settings where there is one."""
    if "leaderboard" in frames:
        yield from board_text(frames["leaderboard"])
    if "switch" in frames and len(frames["switch"]):
        yield ""
        yield from ladder_text(frames["switch"])
    if "ratios" in frames:
        yield ""
        yield from ratios_text(frames["ratios"])


def board_text(frame: pd.DataFrame) -> Iterator[str]:
    """The leaderboard for a terminal: percentages, the columns one reads first."""
    left = ["model", "threat", "flags"]
    shown = frame.drop(
        columns=[c for c in ("kind", "method", "network", "data", "total_weights", "seconds") if c in frame]
    )
    # What only switches are asked stands in their ladder.
    switches, plain = frame[frame["kind"] == "switch"], frame[frame["kind"] != "switch"]
    hidden = [c for c in shown if len(plain) and plain[c].isna().all() and switches[c].notna().any()]
    shown = shown.drop(columns=hidden)
    if shown["seed"].nunique() <= 1:
        shown = shown.drop(columns="seed")
    texts = {str(name): [_cell(str(name), value) for value in shown[name]] for name in shown}
    widths = {name: max(len(name), *map(len, cells), 0) for name, cells in texts.items()}
    for cells in [list(texts), *map(list, zip(*texts.values(), strict=True))]:
        aligned = (
            cell.ljust(widths[name]) if name in left else cell.rjust(widths[name])
            for name, cell in zip(texts, cells, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def matrix_text(frame: pd.DataFrame) -> Iterator[str]:
    """The transfer table as one matrix a threat and attack: sources down, targets across."""
    for (threat, attack, stop), part in frame.groupby(["threat", "attack", "early_stop"], sort=False):
        stopped = ", stopped at the first success" if stop == "true" else ""
        yield f"{attack} at {threat}{stopped}; rows: crafted against, columns: judged by"
        matrix = part.pivot(index="source", columns="target", values="robust")
        order = list(dict.fromkeys(part["source"]))
        matrix = matrix.reindex(index=order, columns=[name for name in order if name in matrix])
        yield from (
            matrix.map(lambda value: "" if pd.isna(value) else f"{100 * value:.1f}%").to_string().split("\n")
        )


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if name in ("remaining", "forwards", "backwards"):
        return f"{value:g}"
    return f"{100 * value:.1f}%" if isinstance(value, float) else str(value)
