"""How far a run is, from what lies in its folder: it can be asked from another terminal at any time.

Nothing is written, and no torch is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile
from ..evidence.manifest import FILE, Manifest
from ..evidence.run_log import RunLog
from ..evidence.store import Store
from .remaining_work import Stage, networks, shards

PARTS = ("", "tickets", "checkpoints")  # where networks lie
SHOWN = 5
EMPTY = Stage(0, 0)


@dataclass(frozen=True)
class Status:
    """state: empty, making, attacking, done or stopped; began: of the last run, in seconds since 1970;
    unfinished: networks under way; shards: None before anything is asked."""

    root: Path
    state: str
    began: float | None = None
    networks: Stage = EMPTY
    unfinished: tuple[str, ...] = ()
    shards: Stage | None = None
    faults: tuple[str, ...] = ()


def look(root: Path, now: float) -> Status:
    """The state of a folder at `now`, in seconds since 1970. Raises BadFile for a folder that is no run."""
    if not root.is_dir():
        raise BadFile(f"no folder {root}")
    if not any(root.iterdir()):
        return Status(root, "empty")
    store, agenda, lock = Store(root), RunLog.load(root), root / ".lock"
    files = {
        path.relative_to(root).as_posix(): path
        for part in PARTS
        for path in sorted((root / part).glob("*.safetensors"))
    }
    if not (agenda or files or lock.exists() or (root / FILE).exists() or store.keys()):
        raise BadFile(f"{root} is no run: no study.toml, results, tickets or checkpoints in it")
    running = store.is_locked()
    began = agenda.began if agenda else lock.stat().st_mtime if lock.exists() else None
    # Until a run asks, `study.toml` is that of an earlier one.
    known = (root / FILE).exists() and (agenda is None or agenda.asking)
    request = Manifest.load(root) if known else None
    asked = agenda.networks if agenda else tuple(files) if request else None
    made = networks(files, asked, began, now)
    answered = shards(store, request, began, now) if request else None
    faults = agenda.faults if agenda else request.failures if request else ()
    stages = [made, *([answered] if answered else [])]
    over = agenda.ended if agenda else bool(faults) or all(stage.done == stage.asked for stage in stages)
    state = ("attacking" if request else "making") if running else "done" if over else "stopped"
    return Status(root, state, began, made, _unfinished(root), answered, faults)


def status_text(status: Status, now: float) -> Iterator[str]:
    """What a terminal shows."""
    yield f"{status.root}: {_headline(status, now)}"
    if status.state == "empty":
        return
    made, asked = status.networks, status.shards
    if made.done or made.asked or made.asked is None:
        yield f"  networks  {_progress(made)} made{_under_way(status)}"
    if asked is None and made.asked is None:
        yield "            how many are asked was not written down by this run"
    if asked is not None:
        yield f"  shards    {_progress(asked)} answered"
        for attack, (done, total) in asked.parts.items():
            yield f"            {done} of {total} {attack}"
    if status.state in ("making", "attacking"):
        yield from _forecast(asked or made, "shards" if asked else "networks", now)
        if asked is None:
            yield "            what is attacked is counted when all are made"
    if status.faults:
        yield f"  failures  {len(status.faults)}"
        yield from (f"            {fault}" for fault in status.faults)


def _headline(status: Status, now: float) -> str:
    if status.state == "empty":
        return "empty, nothing was asked of it yet"
    if status.state in ("making", "attacking"):
        doing = "making networks" if status.state == "making" else "attacking"
        return f"{doing}, for {duration(now - (status.began or now))}"
    if status.state == "done":
        return "done, but for what failed" if status.faults else "done"
    return "stopped; the same command continues"


def _progress(stage: Stage) -> str:
    return str(stage.done) if stage.asked is None else f"{stage.done} of {stage.asked}"


def _under_way(status: Status) -> str:
    names = status.unfinished
    if not names:
        return ""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    what = "under way" if status.state == "making" else "unfinished"
    return f", {len(names)} {what}: {', '.join(names[:SHOWN])}{rest}"


def _forecast(stage: Stage, unit: str, now: float) -> Iterator[str]:
    if not stage.pace:
        yield f"  rate      no {unit} yet"
        return
    yield f"  rate      {60 * stage.pace:.3g} {unit} a minute"
    if stage.left is not None and stage.asked is not None:
        without = f", without {' and '.join(stage.unlike)}: none done yet" if stage.unlike else ""
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(now + stage.left))
        yield f"  ends      in about {duration(stage.left)}, at {at}{without}"


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 5 min', '2 d 4 h'."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), int(seconds // 86400)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{days} d {round(seconds / 3600) - 24 * days} h"


def _unfinished(root: Path) -> tuple[str, ...]:
    """Names of networks that a search has begun and not finished."""
    found = (path for part in PARTS for path in (root / part).glob(".*.unfinished"))
    return tuple(sorted(path.name[1:].removesuffix(".unfinished") for path in found))
