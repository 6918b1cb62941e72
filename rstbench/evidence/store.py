"""Evidence on disk: append-only JSON lines, one file a trial, named by its key. No torch.

The first line of `results/<key>.jsonl` is the trial, the cards of its models and the name of its
data; each further line is the tally of one shard. A line counts once its newline is on the disk, so
a process killed while writing loses at most the shard it was writing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ..errors import BadFile, BadRequest
from .trial import ModelInfo, ShardResult, Trial, TrialResult, canonical

try:
    import fcntl
except ImportError:  # no advisory locks on this platform: two runs in one folder are not noticed
    fcntl = None  # type: ignore[assignment]


class Store:
    """The evidence under `root/results`. Reading creates nothing."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.folder = self.root / "results"

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.jsonl"

    def add(self, trial: Trial, tally: ShardResult, cards: Mapping[str, ModelInfo], data: str) -> None:
        """Appends a tally and returns once it is on the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(trial.key)
        content = _line(asdict(tally))
        if not _cut_torn_line(path):
            content = _header(trial, cards, data) + content
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def read(self, key: str) -> TrialResult | None:
        """What is known of a trial, or None. A torn last line is ignored; other damage raises BadFile."""
        path = self.path(key)
        if not path.exists():
            return None
        whole = path.read_bytes().split(b"\n")[:-1]
        if not whole:
            return None
        try:
            header, *rest = (json.loads(line) for line in whole)
            trial = Trial(**header["trial"])
            cards = {digest: ModelInfo.of(card) for digest, card in header["cards"].items()}
            data, tallies = str(header["data"]), _merge([ShardResult.of(line) for line in rest], path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"{path} is damaged ({error}); delete it and run the same command again") from error
        if trial.key != key:
            raise BadFile(f"{path} holds the answer to another question, {trial.key[:12]}…")
        return TrialResult(trial, cards, data, tallies)

    def keys(self) -> list[str]:
        """Every trial with evidence here, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.jsonl"))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the folder for one run. Raises BadRequest while another process holds it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            if not _take(lock):
                raise BadRequest(
                    f"another run is writing to {self.root}; wait for it or choose another --out"
                )
            yield

    def held(self) -> bool:
        """Whether a run holds the folder now. To look takes the lock for an instant, which `alone` waits out.
        False where the platform has no such locks."""
        if fcntl is None:
            return False
        try:
            with (self.root / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def _take(lock: IO[str]) -> bool:
    """Locks the file for this process; False where another has it, and has it still after a moment."""
    for pause in (0.0, 0.1):
        time.sleep(pause)
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            continue
    return False


def record_file(record: TrialResult) -> bytes:
    """A record as the file that `Store.read` takes it from."""
    header = _header(record.trial, record.cards, record.data)
    return header + b"".join(_line(asdict(tally)) for tally in record.tallies)


def _header(trial: Trial, cards: Mapping[str, ModelInfo], data: str) -> bytes:
    plain_cards = {digest: asdict(card) for digest, card in cards.items()}
    return _line({"trial": asdict(trial), "cards": plain_cards, "data": data})


def _line(value: Any) -> bytes:
    return (canonical(value) + "\n").encode()


def _cut_torn_line(path: Path) -> bool:
    """Cuts what a killed process left of its last line; True where a whole first line remains."""
    if not path.exists():
        return False
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return whole > 0


def _merge(tallies: list[ShardResult], path: Path) -> tuple[ShardResult, ...]:
    """One tally a start. Two answers for one shard must agree."""
    merged: dict[int, ShardResult] = {}
    for tally in tallies:
        known = merged.setdefault(tally.start, tally)
        if known.bits != tally.bits:
            raise BadFile(
                f"{path} holds two different answers for the images from {tally.start} on; delete it "
                f"and run again"
            )
    return tuple(merged[start] for start in sorted(merged))


def as_plain(value: Any) -> Any:
    """Dataclass values for TOML, which knows no None: empty ones are left out."""
    return {key: item for key, item in asdict(value).items() if item not in (None, (), "")}
