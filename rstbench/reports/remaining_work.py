"""What of a run is done and what is left: networks by their files, shards by the evidence."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..evidence.manifest import Manifest
from ..evidence.store import Store
from ..evidence.trial import CLEAN, Trial, TrialResult
from .lookup import EARLY_STOP, base_attack

WINDOW = 300.0  # seconds over which the speed is taken
COSTS = "costs.jsonl"
OTHER = "other"  # shards whose attack cannot be told before they are begun


@dataclass(frozen=True)
class Piece:
    """One network or shard that is finished: when, in seconds since 1970, and how many seconds it took."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Stage:
    """One kind of work. asked: None where nothing says how much there is; pace: pieces a second over the last
    minutes; left: seconds to the end, None where they cannot be told; parts: (done, asked) for each attack;
    unlike: attacks of which nothing is done, so that `left` is without them."""

    done: int
    asked: int | None
    pace: float = 0.0
    left: float | None = None
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unlike: tuple[str, ...] = ()


def forecast(
    pieces: Sequence[Piece], left: float, began: float | None, now: float
) -> tuple[float, float | None]:
    """(pieces a second, seconds to the end), where `left` seconds of work are left.

    The speed is that of the last five minutes, or of the whole run where nothing was finished in them: how
    many seconds of work a second gave, which counts shards at their length and several workers as they are.
    """
    start = now - WINDOW if began is None else max(began, now - WINDOW)
    recent = [piece for piece in pieces if piece.at > start]
    if not recent and began is not None:
        start, recent = began, [piece for piece in pieces if piece.at > began]
    speed = sum(min(piece.seconds, piece.at - start) for piece in recent) / max(now - start, 1e-9)
    return len(recent) / max(now - start, 1e-9), left / speed if speed > 0 else None


def networks(
    files: Mapping[str, Path], asked: Sequence[str] | None, began: float | None, now: float
) -> Stage:
    """Networks made of those asked for. files: what lies there, by its name below the folder of the run."""
    costs = {path.parent: _costs(path.parent / COSTS) for path in files.values()}
    mine = {name: path for name, path in files.items() if asked is None or name in asked}
    seconds = {name: costs[path.parent].get(path.stem, 0.0) for name, path in mine.items()}
    pieces = [Piece(path.stat().st_mtime, seconds[name]) for name, path in mine.items()]
    if asked is None:
        return Stage(len(mine), None, forecast(pieces, 0.0, began, now)[0])
    remaining = len(asked) - len(mine)
    pace, left = forecast(pieces, remaining * _mean(seconds.values()), began, now)
    return Stage(len(mine), len(asked), pace, left)


def shards(store: Store, request: Manifest, began: float | None, now: float) -> Stage:
    """Shards answered of those a request asks for; one that many judge is one piece. Raises BadFile."""
    starts = range(0, request.images, int(request.run["batch"]))
    records = {key: store.read(key) for key in request.keys}
    expected = trials_of(request) if None in records.values() else {}
    crafted = defaultdict(list)
    for key, record in records.items():
        trial = record.trial if record else expected.get(key) or Trial(key, key, OTHER, "", "", 0, 0)
        crafted[replace(trial, target=trial.source)].append((key, record))
    pieces, counts = defaultdict[str, list[Piece]](list), dict[str, tuple[int, int]]()
    for trial, judged in sorted(crafted.items(), key=lambda pair: pair[0].attack != CLEAN):
        ends = [_ends(record, store, key) if record else {} for key, record in judged]
        found = [start for start in starts if all(start in end for end in ends)]
        pieces[trial.attack] += [max((end[start] for end in ends), key=lambda p: p.at) for start in found]
        done, asked = counts.get(trial.attack, (0, 0))
        counts[trial.attack] = (done + len(found), asked + len(starts))
    unlike = tuple(attack for attack, (done, asked) in counts.items() if not done and asked)
    work = sum(
        (asked - done) * _mean(piece.seconds for piece in pieces[attack])
        for attack, (done, asked) in counts.items()
    )
    every = [piece for some in pieces.values() for piece in some]
    pace, left = forecast(every, work, began, now)
    done, asked = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    return Stage(done, asked, pace, left, counts, unlike)


def trials_of(request: Manifest) -> dict[str, Trial]:
    """The trials of a request by their keys, as far as they follow from its rows and groups: the keys alone
    say nothing of what was not begun."""
    data, batch = request.run["data_digest"], int(request.run["batch"])
    named = [a if isinstance(a, str) else a["attack"] for a in request.study.get("attacks", ())]
    named += [attack for row in request.rows for attack in row.attacks]
    attacks = {text for attack in named for text in _stopped(attack)}
    threats = {*request.study.get("threats", ()), *(row.threat for row in request.rows)}
    seeds = {*request.study.get("seeds", ()), *(row.seed for row in request.rows)}
    judges = {digest: {digest, *card.members} for digest, card in request.models.items()}
    for group in request.groups:
        for digest in group:
            judges[digest] |= set(group)
    trials = [Trial(digest, digest, CLEAN, "", data, batch, 0) for digest in request.models]
    trials += [
        Trial(source, target, attack, threat, data, batch, seed)
        for source, targets in judges.items()
        for target in targets
        for attack in attacks
        for threat in threats
        for seed in seeds
    ]
    wanted = set(request.keys)
    return {key: trial for trial in trials if (key := trial.key) in wanted}


def _stopped(attack: str) -> tuple[str, str]:
    """An attack as it is, and stopping at its first success."""
    name, _, options = base_attack(attack).partition(":")
    return attack, f"{name}:{','.join(sorted([*filter(None, options.split(',')), EARLY_STOP]))}"


def _ends(record: TrialResult, store: Store, key: str) -> dict[int, Piece]:
    """When each shard of a trial was answered: the last when its file was written, each before that as much
    earlier as the next one took; packed ones at an unknown time long ago."""
    ends = {shard.start: Piece(-math.inf, shard.seconds) for shard in record.shards}
    written = record
    try:
        at = store.path(key).stat().st_mtime
        if store.read_packed(key):
            written = store.read_unpacked(key) or replace(record, shards=())
    except FileNotFoundError:
        return ends
    for shard in reversed(written.shards):
        ends[shard.start] = Piece(at, shard.seconds)
        at -= shard.seconds
    return ends


def _costs(path: Path) -> dict[str, float]:
    """Seconds that each network took, by its name; without those that a kill tore."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            cost = json.loads(line)
            found[str(cost["name"])] = float(cost["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
