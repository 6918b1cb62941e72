"""Report how far a run is, from the files in its folder, at any time and from another terminal.

Nothing is written, and no torch is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile
from ..evidence.manifest import MANIFEST_FILE, Manifest
from ..evidence.run_log import RunLog
from ..evidence.shard_reports import read_reports
from ..evidence.store import Store
from ..progress import ShardReport, duration
from .remaining_work import StageProgress, network_progress, shard_progress

NETWORK_FOLDERS = ("", "tickets", "checkpoints")
MOST_NAMED = 5
NOTHING = StageProgress(0, 0)


@dataclass(frozen=True)
class Status:
    """State of a run.

    state: empty, making, attacking, done or stopped; began: of the last run, in seconds since 1970;
    unfinished: networks under way; shards: None before anything is asked; attacked: shards under way;
    crafting: as it is asked for, '' where the folder does not say.
    """

    root: Path
    state: str
    began: float | None = None
    networks: StageProgress = NOTHING
    unfinished: tuple[str, ...] = ()
    shards: StageProgress | None = None
    faults: tuple[str, ...] = ()
    attacked: tuple[ShardReport, ...] = ()
    crafting: str = ""


def read_status(root: Path, now: float) -> Status:
    """Read the state of a folder at `now`, in seconds since 1970. Raises BadFile where it is no run."""
    if not root.is_dir():
        raise BadFile(f"no folder {root}")
    if not any(root.iterdir()):
        return Status(root, "empty")
    store, log, lock = Store(root), RunLog.load(root), root / ".lock"
    files = {
        path.relative_to(root).as_posix(): path
        for folder in NETWORK_FOLDERS
        for path in sorted((root / folder).glob("*.safetensors"))
    }
    if not (log or files or lock.exists() or (root / MANIFEST_FILE).exists() or store.keys()):
        raise BadFile(f"{root} is no run: no study.toml, results, tickets or checkpoints in it")
    running = store.is_locked()
    began = log.began if log else lock.stat().st_mtime if lock.exists() else None
    # Until a run asks, `study.toml` is that of an earlier one.
    is_current = (root / MANIFEST_FILE).exists() and (log is None or log.asking)
    manifest = Manifest.load(root) if is_current else None
    planned = log.networks if log else tuple(files) if manifest else None
    networks = network_progress(files, planned, began, now)
    craftings = log.craftings if log else ()
    shards = shard_progress(store, manifest, craftings, began, now) if manifest else None
    faults = log.faults if log else manifest.failures if manifest else ()
    stages = [networks, *([shards] if shards else [])]
    ended = log.ended if log else bool(faults) or all(stage.done == stage.total for stage in stages)
    state = ("attacking" if manifest else "making") if running else "done" if ended else "stopped"
    attacked = read_reports(root, now) if state == "attacking" else ()
    crafting = str(manifest.run.get("crafting", "")) if manifest else ""
    return Status(root, state, began, networks, _unfinished(root), shards, faults, attacked, crafting)


def status_text(status: Status, now: float) -> Iterator[str]:
    """Yield the lines that a terminal shows."""
    yield f"{status.root}: {_headline(status, now)}"
    if status.state == "empty":
        return
    networks, shards = status.networks, status.shards
    if networks.done or networks.total or networks.total is None:
        yield f"  networks  {_done_of_total(networks)} made{_under_way(status)}"
    if shards is None and networks.total is None:
        yield "            how many are asked was not written down by this run"
    if shards is not None:
        crafting = f", crafting {status.crafting}" if status.crafting else ""
        yield f"  shards    {_done_of_total(shards)} answered{crafting}"
        for attack, (done, total) in shards.by_attack.items():
            yield f"            {done} of {total} {attack}"
    for index, report in enumerate(status.attacked):
        yield f"  {'' if index else 'now':10}{report.line()}"
    if status.state in ("making", "attacking"):
        yield from _forecast(shards or networks, "shards" if shards else "networks", now)
        if shards is None:
            yield "            what is attacked is counted when all are made"
    if status.faults:
        yield f"  failures  {len(status.faults)}"
        yield from (f"            {fault}" for fault in status.faults)


def _headline(status: Status, now: float) -> str:
    if status.state == "empty":
        return "empty, nothing was asked of it yet"
    if status.state in ("making", "attacking"):
        activity = "making networks" if status.state == "making" else "attacking"
        return f"{activity}, for {duration(now - (status.began or now))}"
    if status.state == "done":
        return "done, but for what failed" if status.faults else "done"
    return "stopped; the same command continues"


def _done_of_total(stage: StageProgress) -> str:
    return str(stage.done) if stage.total is None else f"{stage.done} of {stage.total}"


def _under_way(status: Status) -> str:
    names = status.unfinished
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    state = "under way" if status.state == "making" else "unfinished"
    return f", {len(names)} {state}: {', '.join(names[:MOST_NAMED])}{more}"


def _forecast(stage: StageProgress, unit: str, now: float) -> Iterator[str]:
    if not stage.rate:
        yield f"  rate      no {unit} yet"
        return
    yield f"  rate      {60 * stage.rate:.3g} {unit} a minute"
    if stage.seconds_left is not None and stage.total is not None:
        missing = " and ".join(stage.not_estimated)
        without = f", without {missing}: none done yet" if missing else ""
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(now + stage.seconds_left))
        yield f"  ends      in about {duration(stage.seconds_left)}, at {at}{without}"


def _unfinished(root: Path) -> tuple[str, ...]:
    """Return the names of networks whose search has begun and not finished."""
    files = (path for folder in NETWORK_FOLDERS for path in (root / folder).glob(".*.unfinished"))
    return tuple(sorted(path.name[1:].removesuffix(".unfinished") for path in files))
