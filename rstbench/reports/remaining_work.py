"""Count what of a run is done and estimate when it ends: networks by their files, shards by the evidence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..evidence.costs import COSTS_FILE, read_costs
from ..evidence.manifest import Manifest
from ..evidence.part import shards_of
from ..evidence.run_log import CraftingLog
from ..evidence.store import Store
from ..evidence.trial import CLEAN, TrialResult

WINDOW = 300.0  # seconds over which the rate is taken
OTHER = "other"  # shards whose attack is not known before they are begun


@dataclass(frozen=True)
class Completion:
    """A finished network or shard. time: in seconds since 1970; seconds: how long it took."""

    time: float
    seconds: float


@dataclass(frozen=True)
class StageProgress:
    """Progress of one stage of a run.

    total: None where it is not known; rate: items a second over the last minutes; seconds_left: None where it
    cannot be told; by_attack: (done, total); not_estimated: attacks of which nothing is done, so that
    `seconds_left` is without them.
    """

    done: int
    total: int | None
    rate: float = 0.0
    seconds_left: float | None = None
    by_attack: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    not_estimated: tuple[str, ...] = ()


def estimate(
    completions: Sequence[Completion], work: float, began: float | None, now: float
) -> tuple[float, float | None]:
    """Return (items a second, seconds to the end), where `work` seconds of work are left.

    The speed is that of the last five minutes, or of the whole run where nothing was finished in them: how
    many seconds of work a second gave, which counts shards at their length and several workers as they are.
    """
    start = now - WINDOW if began is None else max(began, now - WINDOW)
    recent = [item for item in completions if item.time > start]
    if not recent and began is not None:
        start, recent = began, [item for item in completions if item.time > began]
    elapsed = max(now - start, 1e-9)
    speed = sum(min(item.seconds, item.time - start) for item in recent) / elapsed
    return len(recent) / elapsed, work / speed if speed > 0 else None


def network_progress(
    files: Mapping[str, Path], planned: Sequence[str] | None, began: float | None, now: float
) -> StageProgress:
    """Return the progress of the networks that a run makes.

    files: those that are there, by name below the folder of the run; planned: None where nothing says.
    """
    costs = {path.parent: read_costs(path.parent / COSTS_FILE) for path in files.values()}
    made = {name: path for name, path in files.items() if planned is None or name in planned}
    completions = []
    for path in made.values():
        cost = costs[path.parent].get(path.stem)
        completions.append(Completion(path.stat().st_mtime, cost.seconds if cost else 0.0))
    missing = 0 if planned is None else len(planned) - len(made)
    rate, left = estimate(completions, missing * _mean(item.seconds for item in completions), began, now)
    if planned is None:
        return StageProgress(len(made), None, rate)
    return StageProgress(len(made), len(planned), rate, left)


def shard_progress(
    store: Store, manifest: Manifest, craftings: Sequence[CraftingLog], began: float | None, now: float
) -> StageProgress:
    """Return the progress of the shards of a request; one that many models judge is one. Raises BadFile."""
    parts = shards_of(manifest.run)
    every = enumerate(range(0, manifest.images, int(manifest.run["batch"])))
    starts = [start for number, start in every if any(part.holds(number) for part in parts)]
    completions, counts = defaultdict[str, list[Completion]](list), dict[str, tuple[int, int]]()
    for attack, judged in _by_crafting(store, manifest, craftings):
        by_start = [_completions(result, store, key) if result else {} for key, result in judged]
        answered = [start for start in starts if all(start in shards for shards in by_start)]
        completions[attack] += [
            max((shards[start] for shards in by_start), key=lambda item: item.time) for start in answered
        ]
        done, total = counts.get(attack, (0, 0))
        counts[attack] = (done + len(answered), total + len(starts))
    not_estimated = tuple(attack for attack, (done, total) in counts.items() if not done and total)
    work = sum(
        (total - done) * _mean(item.seconds for item in completions[attack])
        for attack, (done, total) in counts.items()
    )
    rate, left = estimate([item for some in completions.values() for item in some], work, began, now)
    done, total = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    return StageProgress(done, total, rate, left, counts, not_estimated)


def _by_crafting(
    store: Store, manifest: Manifest, craftings: Sequence[CraftingLog]
) -> Iterator[tuple[str, list[tuple[str, TrialResult | None]]]]:
    """Yield (attack, [(key, result)]) for each crafting of a request, clean images first.

    Trials that the run log does not hold are grouped by their results; those not begun stand alone.
    """
    logged = {
        key: (number, crafting.attack) for number, crafting in enumerate(craftings) for key in crafting.keys
    }
    groups = defaultdict[tuple[Hashable, str], list[tuple[str, TrialResult | None]]](list)
    order = {key: number for number, key in enumerate(logged)}
    for key in sorted(manifest.keys, key=lambda key: order.get(key, len(order))):
        result = store.read(key)
        if result and key not in logged:
            trial = result.trial
            groups[replace(trial, target=trial.source), trial.attack].append((key, result))
        else:
            groups[logged.get(key, (key, OTHER))].append((key, result))
    for (_, attack), judged in sorted(groups.items(), key=lambda group: group[0][1] != CLEAN):
        yield attack, judged


def _completions(result: TrialResult, store: Store, key: str) -> dict[int, Completion]:
    """Return when each shard of a trial was answered, by its first image.

    The last was when its file was written, each before that as much earlier as the next one took; packed ones
    were answered at an unknown time long ago.
    """
    completions = {shard.start: Completion(-math.inf, shard.seconds) for shard in result.shards}
    try:
        time = store.path(key).stat().st_mtime
    except FileNotFoundError:
        return completions
    unpacked = store.read_unpacked(key) if store.read_packed(key) else result
    for shard in reversed(unpacked.shards if unpacked else ()):
        completions[shard.start] = Completion(time, shard.seconds)
        time -= shard.seconds
    return completions


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
