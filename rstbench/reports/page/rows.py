"""The leaderboard's lines with the evidence that each unfolds to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...evidence.manifest import Row
from ...evidence.trial import CLEAN, ShardResult, TrialResult
from ..lookup import Evidence
from .commands import row_command

MOST_ATTACKS = 4  # columns; all are in the evidence


@dataclass(frozen=True)
class Answer:
    """One attack on a model. parts: (stage, images it broke); files: (who judged, key of the trial, files
    with its evidence); where: how it ran, where that differs from the run."""

    attack: str
    robust: float | None
    images: int
    parts: tuple[tuple[str, int], ...]
    flags: tuple[str, ...]
    files: tuple[tuple[str, str, tuple[str, ...]], ...]
    where: str


@dataclass(frozen=True)
class Line:
    """A line of the leaderboard: its cells by column, and what they stand on."""

    cells: dict[str, Any]
    flags: tuple[str, ...]
    digest: str
    members: tuple[tuple[str, float], ...]
    made: str
    answers: tuple[Answer, ...]
    command: str


def lines(evidence: Evidence, board: pd.DataFrame, folder: Path) -> Iterator[Line]:
    """In the order of the leaderboard."""
    asked = {(evidence.card(row.model).name, row.threat, row.seed): row for row in evidence.request.rows}
    for cells in board.astype(object).where(board.notna(), None).to_dict("records"):
        row = asked[cells["model"], cells["threat"], cells["seed"]]
        card = evidence.card(row.model)
        members = [(evidence.card(digest).name, weight) for digest, weight in evidence.members(row.model)]
        cost = [f"{card.made_seconds:g} s"] if card.made_seconds is not None else []
        cost += [f"{card.made_mib:g} MiB"] if card.made_mib is not None else []
        yield Line(
            cells={str(name): value for name, value in cells.items()},
            flags=tuple(str(cells["flags"] or "").split()),
            digest=row.model,
            members=tuple(members) if card.members else (),
            made=", ".join(cost),
            answers=tuple(_answer(evidence, row, attack) for attack in (CLEAN, *row.attacks)),
            command=row_command(evidence.request, row, folder),
        )


def shown_attacks(board: pd.DataFrame, attacks: Sequence[str]) -> list[str]:
    """The attacks that get a column: those that are not for switches alone, as many as have room."""
    plain = board[board["kind"] != "switch"]
    asked = [name for name in attacks if not len(plain) or plain[name].notna().any()]
    return asked[:MOST_ATTACKS]


def _answer(evidence: Evidence, row: Row, attack: str) -> Answer:
    robust = evidence.robust(row.model, attack, row.threat, row.seed)
    clean = evidence.robust(row.model, CLEAN, row.threat, row.seed)
    keys = [(name, record.trial.key) for name, record in _records(evidence, row, attack)]
    tallies = evidence.tallies(row.model, attack, row.threat, row.seed)
    flags = evidence.all_flags(row.model, attack, row.threat, row.seed)
    return Answer(
        attack=attack,
        robust=None if robust is None else float(robust.mean()),
        images=evidence.request.images,
        parts=_parts(tallies, clean) if attack != CLEAN and clean is not None else (),
        flags=tuple(sorted(flags)),
        files=tuple((name, key, evidence.places.get(key, ())) for name, key in keys),
        where=_where(evidence, tallies),
    )


def _records(evidence: Evidence, row: Row, attack: str) -> Iterator[tuple[str, TrialResult]]:
    """(judge, record) of a model's own trial, or of a switch's, one a member."""
    for member, _ in evidence.members(row.model):
        source = member if attack == CLEAN else row.model
        threat, seed = ("", 0) if attack == CLEAN else (row.threat, row.seed)
        record = evidence.records.get((source, member, attack, threat, seed))
        if record is not None:
            yield evidence.card(member).name, record


def _parts(tallies: Sequence[ShardResult], clean: np.ndarray) -> tuple[tuple[str, int], ...]:
    """What each stage broke of the images that were right before it; clean: (images,)."""
    broken: dict[str, int] = {}
    for tally in tallies:
        for stage, bits in tally.stages.items():
            right = clean[tally.start : tally.start + len(bits)] > 0
            found = sum(bit == "1" for bit, whole in zip(bits, right, strict=False) if whole)
            broken[stage] = broken.get(stage, 0) + found
    return tuple(broken.items())


def _where(evidence: Evidence, tallies: Sequence[ShardResult]) -> str:
    """Device, threads and versions of the shards, where they are not those of the run."""
    run = evidence.request.run
    usual = run_text(run.get("device"), run.get("threads"), run.get("versions", {}))
    found = dict.fromkeys(run_text(tally.device, tally.threads, tally.versions) for tally in tallies)
    return "; ".join(text for text in found if text != usual)


def run_text(device: object, threads: object, versions: dict[str, str]) -> str:
    """'cpu, 2 threads, rstbench 0.1.0, torch 2.15.0'."""
    told = [str(device or "unknown device"), f"{threads} thread{'' if threads == 1 else 's'}"]
    return ", ".join([*told, *(f"{name} {versions[name]}" for name in sorted(versions))])
