"""Store evidence on disk: append-only JSON lines, one file a question, named by its key. No torch.

The first line of `results/<key>.jsonl` is the trial, what is known of its models and the name of its data;
each further line is the result of one shard. A line counts once its newline is on the disk, so a process
killed while writing loses at most the shard it was writing. What was packed lies in `results.zip`; a question
may be answered in part there and in part in its file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from ..errors import BadFile, BadRequest
from ..files import append, refuse_links, remove_drafts
from ..limits import TEXT_SHARE, read_bytes
from ..parsing import parse_json
from .pack import PACK_FILE, Pack, complete_lines
from .trial import ModelInfo, ShardResult, Trial, TrialResult, canonical

try:
    import fcntl
except ImportError:  # no advisory locks on this platform: two runs in one folder are not noticed
    fcntl = None  # type: ignore[assignment]


class Store:
    """Read and add to the evidence under `root`: `results/` and `results.zip`. Reading creates nothing."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.folder = self.root / "results"
        self._pack: Pack | None = None

    def path(self, key: str) -> Path:
        """Return the file that new shards of a question go to."""
        return self.folder / f"{key}.jsonl"

    def places(self, key: str) -> tuple[str, ...]:
        """Return where the evidence of a question lies in the folder: the pack, its file, or both."""
        unpacked = (f"results/{key}.jsonl",) if self.path(key).exists() else ()
        pack = self.pack()
        return (PACK_FILE, *unpacked) if pack and key in pack.keys else unpacked

    def describe(self, key: str) -> str:
        """Return where the evidence of a question lies, for a message."""
        return " and ".join(
            self._member(key) if place == PACK_FILE else str(self.root / place) for place in self.places(key)
        )

    def add(self, trial: Trial, result: ShardResult, models: Mapping[str, ModelInfo], data: str) -> None:
        """Append a shard's result, and return once it is on the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(trial.key)
        content = _line(result.as_plain())
        if not _cut_torn_line(path):
            content = _header(trial, models, data) + content
        append(path, content, sync=True)

    def read(self, key: str) -> TrialResult | None:
        """Return the result of a trial, or None. A torn last line is ignored; other damage raises BadFile."""
        # The file first: while it is packed it goes only after the pack has come.
        unpacked, packed = self.read_unpacked(key), self.read_packed(key)
        if unpacked is None or packed is None:
            return unpacked or packed
        pieces = [(self._member(key), packed), (str(self.path(key)), unpacked)]
        return join(pieces, f"delete {self.path(key)} and run the same command again")

    def read_unpacked(self, key: str) -> TrialResult | None:
        """Return what the file of a trial holds, without the pack."""
        path = self.path(key)
        try:
            content = read_bytes(path, TEXT_SHARE)
        except FileNotFoundError:
            return None
        return _parse(content, key, str(path), "delete it and run the same command again")

    def read_packed(self, key: str) -> TrialResult | None:
        """Return what the pack holds of a trial."""
        pack = self.pack()
        content = pack.read(key) if pack else None
        if content is None:
            return None
        return _parse(content, key, self._member(key), "restore the pack from a copy")

    def pack(self) -> Pack | None:
        """Return the current pack, opened once. Raises BadFile where it is damaged."""
        if self._pack is None or not self._pack.is_current():
            try:
                self._pack = Pack(self.root / PACK_FILE)
            except FileNotFoundError:
                if (self.root / PACK_FILE).is_symlink():
                    raise BadFile(f"{self.root / PACK_FILE} links to nothing; fetch what it names") from None
                self._pack = None
        return self._pack

    def keys(self) -> list[str]:
        """Return the keys of all trials with evidence here, sorted."""
        unpacked = {path.stem for path in self.folder.glob("*.jsonl")}
        pack = self.pack()
        return sorted(unpacked | pack.keys if pack else unpacked)

    def _member(self, key: str) -> str:
        return f"{self.root / PACK_FILE} (member {key}.jsonl)"

    @contextmanager
    def lock(self, advice: str = "wait for it or choose another --out") -> Iterator[None]:
        """Hold the folder for one run, without what a killed one left half written there.

        Raises BadRequest, with the advice, while another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        refuse_links(self.root)
        with (self.root / ".lock").open("w") as file:
            if not _take(file):
                raise BadRequest(f"another run is writing to {self.root}; {advice}")
            for folder in (self.root, *(path for path in self.root.iterdir() if path.is_dir())):
                remove_drafts(folder)
            yield

    def is_locked(self) -> bool:
        """Tell whether a run holds the folder now. To look takes the lock for an instant, which `lock` waits
        out. False where the platform has no such locks."""
        if fcntl is None:
            return False
        try:
            with (self.root / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def join(pieces: Sequence[tuple[str, TrialResult]], advice: str) -> TrialResult:
    """Join the shards that several places hold of one trial; models and data are those of the first.

    Raises BadFile, with the advice, where two answers for one shard differ.
    """
    shards: dict[int, tuple[str, ShardResult]] = {}
    for place, piece in pieces:
        for shard in piece.shards:
            first, known = shards.setdefault(shard.start, (place, shard))
            if known.bits != shard.bits:
                holders = f"{place} holds" if place == first else f"{first} and {place} hold"
                raise BadFile(
                    f"{holders} two different answers for the images from {shard.start} on; {advice}"
                )
    return replace(pieces[0][1], shards=tuple(shards[start][1] for start in sorted(shards)))


def record_file(record: TrialResult) -> bytes:
    """Return the content of the file of a record, which `Store.read` reads."""
    header = _header(record.trial, record.models, record.data)
    return header + b"".join(_line(shard.as_plain()) for shard in record.shards)


def as_plain(value: Any) -> Any:
    """Return the fields of a dataclass for TOML, which knows no None: empty ones are left out."""
    return {key: item for key, item in asdict(value).items() if item not in (None, (), "")}


def _parse(content: bytes, key: str, place: str, advice: str) -> TrialResult | None:
    """Return the record of a file; None without a complete first line. Raises BadFile, with the advice."""
    lines = complete_lines(content)
    if not lines:
        return None
    try:
        header, *rest = map(parse_json, lines)
        trial = Trial.of(header["trial"])
        models = {digest: ModelInfo.of(card) for digest, card in header["cards"].items()}
        shards = tuple(ShardResult.of(line) for line in rest)
        record = TrialResult(trial, models, str(header["data"]), shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(f"{place} is damaged ({error}); {advice}") from error
    if trial.key != key:
        raise BadFile(f"{place} holds the answer to another question, {trial.key[:12]}…")
    return join([(place, record)], advice)


def _take(file: IO[str]) -> bool:
    """Lock the file for this process; False where another has it, and has it still after a moment."""
    for pause in (0.0, 0.1):
        time.sleep(pause)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            continue
    return False


def _header(trial: Trial, models: Mapping[str, ModelInfo], data: str) -> bytes:
    plain = {digest: asdict(model) for digest, model in models.items()}
    return _line({"trial": trial.as_plain(), "cards": plain, "data": data})


def _line(value: Any) -> bytes:
    return (canonical(value) + "\n").encode()


def _cut_torn_line(path: Path) -> bool:
    """Cut what a killed process left of its last line; True where a complete first line remains."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            if file.read() == b"\n":
                return True
    except FileNotFoundError:
        return False
    complete = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, complete)
    return complete > 0
