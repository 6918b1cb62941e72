"""Collect the rows of the page's leaderboard, with the evidence that each unfolds to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...evidence.manifest import Row
from ...evidence.trial import CLEAN, ShardResult
from ..certified import proved
from ..lookup import Evidence
from .commands import row_command
from .template import records

MOST_ATTACKS = 4  # columns; the evidence of a row lists all


@dataclass(frozen=True)
class AttackResult:
    """One attack on a model.

    stages: (stage, images it broke); files: (judge, key of the trial, files with its evidence); machine:
    device, threads and versions, where they are not those of the run.
    """

    attack: str
    robust: float | None
    images: int
    stages: tuple[tuple[str, int], ...]
    flags: tuple[str, ...]
    files: tuple[tuple[str, str, tuple[str, ...]], ...]
    machine: str


@dataclass(frozen=True)
class Proof:
    """One certificate of a model. proved: the share of images, None without an answer; files: as above."""

    certificate: str
    proved: float | None
    files: tuple[tuple[str, str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class LeaderboardRow:
    """A row of the leaderboard: its cells by column, and their evidence."""

    cells: dict[str, Any]
    flags: tuple[str, ...]
    digest: str
    members: tuple[tuple[str, float], ...]
    made_cost: str
    attacks: tuple[AttackResult, ...]
    proofs: tuple[Proof, ...]
    command: str


def leaderboard_rows(evidence: Evidence, board: pd.DataFrame, folder: Path) -> Iterator[LeaderboardRow]:
    """Yield the rows in the order of the leaderboard."""
    by_name = {(evidence.info(row.model).name, row.threat, row.seed): row for row in evidence.manifest.rows}
    for cells in records(board, None):
        row = by_name[cells["model"], cells["threat"], cells["seed"]]
        info = evidence.info(row.model)
        members = [(evidence.info(digest).name, weight) for digest, weight in evidence.members(row.model)]
        cost = [f"{info.made_seconds:g} s"] if info.made_seconds is not None else []
        cost += [f"{info.made_mib:g} MiB"] if info.made_mib is not None else []
        yield LeaderboardRow(
            cells=cells,
            flags=tuple(str(cells["flags"] or "").split()),
            digest=row.model,
            members=tuple(members) if info.members else (),
            made_cost=", ".join(cost),
            attacks=tuple(_attack_result(evidence, row, attack) for attack in (CLEAN, *row.attacks)),
            proofs=tuple(_proof(evidence, row, certificate) for certificate in row.certificates),
            command=row_command(evidence.manifest, row, folder),
        )


def column_attacks(board: pd.DataFrame, attacks: Sequence[str]) -> list[str]:
    """Return the attacks that get a column: those not on switches alone, as many as have room."""
    plain = board[board["kind"] != "switch"]
    answered = [name for name in attacks if not len(plain) or plain[name].notna().any()]
    return answered[:MOST_ATTACKS]


def _attack_result(evidence: Evidence, row: Row, attack: str) -> AttackResult:
    robust = evidence.robust(row.model, attack, row.threat, row.seed)
    clean = evidence.robust(row.model, CLEAN, row.threat, row.seed)
    shards = evidence.shards(row.model, attack, row.threat, row.seed)
    flags = evidence.all_flags(row.model, attack, row.threat, row.seed)
    return AttackResult(
        attack=attack,
        robust=None if robust is None else float(robust.mean()),
        images=evidence.manifest.images,
        stages=_broken_by_stage(shards, clean) if attack != CLEAN and clean is not None else (),
        flags=tuple(sorted(flags)),
        files=tuple(_files(evidence, row, attack)),
        machine=_machine(evidence, shards),
    )


def _proof(evidence: Evidence, row: Row, certificate: str) -> Proof:
    share, files = 0.0, list[tuple[str, str, tuple[str, ...]]]()
    for member, weight in evidence.members(row.model):
        record = evidence.proofs.get((member, certificate, row.threat))
        bits = proved(evidence, member, certificate, row.threat)
        if record is None or bits is None:
            return Proof(certificate, None, ())
        share += weight * float(bits.mean())
        key = record.trial.key
        files.append((evidence.info(member).name, key, evidence.places.get(key, ())))
    return Proof(certificate, share, tuple(files))


def _files(evidence: Evidence, row: Row, attack: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield (judge, key, files) of a model's own trial; of a switch's, one a member."""
    for member, _ in evidence.members(row.model):
        record = evidence.record(row.model, member, attack, row.threat, row.seed)
        if record is not None:
            key = record.trial.key
            yield evidence.info(member).name, key, evidence.places.get(key, ())


def _broken_by_stage(shards: Sequence[ShardResult], clean: np.ndarray) -> tuple[tuple[str, int], ...]:
    """Return how many images each stage broke of those that were right before it; clean: (images,)."""
    broken: dict[str, int] = {}
    for shard in shards:
        for stage, bits in shard.stages.items():
            was_right = clean[shard.start : shard.start + len(bits)] > 0
            count = sum(bit == "1" for bit, right in zip(bits, was_right, strict=False) if right)
            broken[stage] = broken.get(stage, 0) + count
    return tuple(broken.items())


def _machine(evidence: Evidence, shards: Sequence[ShardResult]) -> str:
    """Return device, threads and versions of the shards, where they are not those of the run."""
    run = evidence.manifest.run
    usual = run_text(run.get("device"), run.get("threads"), run.get("versions", {}))
    texts = dict.fromkeys(run_text(shard.device, shard.threads, shard.versions) for shard in shards)
    return "; ".join(text for text in texts if text != usual)


def run_text(device: object, threads: object, versions: dict[str, str]) -> str:
    """Return a text such as 'cpu, 2 threads, rstbench 0.1.0, torch 2.15.0'."""
    parts = [str(device or "unknown device"), f"{threads} thread{'' if threads == 1 else 's'}"]
    return ", ".join([*parts, *(f"{name} {versions[name]}" for name in sorted(versions))])
