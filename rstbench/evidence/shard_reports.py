"""Write and read where shards under way are: a small file a shard below `.progress`, while it is attacked.

Workers write, the process that waits for them and `status` read. A file is no evidence: it goes with its
shard, and one that a killed process left goes with the next run. No torch.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from ..errors import BadFile
from ..files import write_whole
from ..limits import read_text
from ..parsing import parse_json
from ..progress import ShardReport, Stage, StageReport, listening

PROGRESS_FOLDER = ".progress"
WRITE_SECONDS = 3.0  # between two reports of one shard
READ_SECONDS = 1.0  # between two looks at all of them
STALE_SECONDS = 60.0  # the age from which a report tells nothing


@contextmanager
def reporting(
    folder: Path | None,
    key: str,
    name: str,
    start: int,
    images: int,
    clock: Callable[[], float] = time.time,
) -> Iterator[None]:
    """Keep the last report of the shard that is attacked within the block in a file, which then goes.

    folder: `.progress` of the run, None to write nothing; key: of the shard's first trial. A file that cannot
    be written is done without, as on a machine that has not the folder of the run.
    """
    if folder is None or not folder.parent.is_dir():
        yield
        return
    began, path = clock(), folder / f"{key[:16]}-{start}.json"

    def write(stage: StageReport) -> None:
        shard = ShardReport(name, start, images, began, clock(), os.getpid(), stage)
        with suppress(OSError, TypeError):  # no progress is shown of an attack that reports strange things
            write_whole(path, json.dumps(asdict(shard)).encode())

    try:
        with listening(write, WRITE_SECONDS, clock):
            yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_reports(root: Path, now: float) -> tuple[ShardReport, ...]:
    """Return what the shards under way in a run's folder told in the last minute, the first begun first.

    Damaged files are left out.
    """
    found = (_read(path) for path in sorted((root / PROGRESS_FOLDER).glob("*.json")))
    fresh = [shard for shard in found if shard and abs(now - shard.now) <= STALE_SECONDS]
    return tuple(sorted(fresh, key=lambda shard: shard.began))


def clear_reports(root: Path) -> None:
    """Remove what shards of earlier runs left. Only for who holds the folder."""
    folder = root / PROGRESS_FOLDER
    with suppress(OSError):
        for path in [*folder.glob("*.json"), *folder.glob(".*.part")]:
            path.unlink()
        folder.rmdir()


@contextmanager
def watching(root: Path, stage: Stage) -> Iterator[None]:
    """Tell a stage every second, from another thread, where the shards are that run within the block.

    A stage without `inside` is told nothing.
    """
    ended, tell = threading.Event(), getattr(stage, "inside", None)

    def watch() -> None:
        with suppress(OSError):  # of what is told: a terminal that is gone
            while tell and not ended.wait(READ_SECONDS):
                tell(read_reports(root, time.time()))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5 * READ_SECONDS)  # one that hangs in its output is left behind
        clear_reports(root)


def _read(path: Path) -> ShardReport | None:
    try:
        plain = parse_json(read_text(path))
        stage = plain["stage"]
        return ShardReport(
            str(plain["name"]),
            int(plain["start"]),
            int(plain["images"]),
            _finite(plain["began"]),
            _finite(plain["now"]),
            int(plain["pid"]),
            StageReport(
                str(stage["stage"]),
                int(stage["images_left"]),
                *(_finite(stage[name]) for name in ("robust", "done", "total")),
            ),
        )
    except (OSError, BadFile, ValueError, KeyError, TypeError, ArithmeticError):
        return None


def _finite(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError(value)
    return number
