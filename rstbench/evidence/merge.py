"""The evidence of several folders as that of one: of several runs, machines or studies of the same images.

Shards of one trial are joined, the requests united. Models are not copied. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BadFile, BadRequest
from ..files import fill_folder
from .manifest import FILE, Manifest
from .store import Store, record_file
from .trial import ShardResult, Trial, TrialResult
from .unite import unite


@dataclass(frozen=True)
class _Folder:
    root: Path
    request: Manifest
    store: Store


def merge(roots: Sequence[Path], out: Path) -> list[str]:
    """Writes the evidence of folders to `out`, a folder that reads like one that `evaluate` wrote; returns
    what a person should know of it.

    An earlier merging in `out` is written over. Raises BadRequest where the folders are about other images
    or `out` is something else, BadFile where two of them answer one question differently.
    """
    folders = _folders(roots)
    _refuse(folders, out)
    request = unite([f.request for f in folders], _names(folders))
    keys = dict.fromkeys(key for folder in folders for key in folder.request.keys)
    records = [record for key in keys if (record := _joined(key, folders))]
    files = {f"results/{record.trial.key}.jsonl": record_file(record) for record in records}
    spare = _answered_twice(records, request.images)
    request = replace(request, keys=tuple(key for key in request.keys if key not in spare))
    fill_folder(out, {**files, FILE: request.file()})  # the request last: until then the old one holds
    return list(_notes(folders, spare))


def _folders(roots: Sequence[Path]) -> list[_Folder]:
    """Each once, in the order named."""
    once: dict[Path, Path] = {}
    for root in roots:
        once.setdefault(root.resolve(), root)
    return [_Folder(root, Manifest.load(root), Store(root)) for root in once.values()]


def _names(folders: Sequence[_Folder]) -> list[str]:
    """The folders by as many last parts of their paths as tell them apart."""
    paths = [folder.root.resolve().parts for folder in folders]
    every = (["/".join(parts[-length:]) for parts in paths] for length in range(1, max(map(len, paths)) + 1))
    return next(names for names in every if len(set(names)) == len(names))


def _refuse(folders: Sequence[_Folder], out: Path) -> None:
    first = folders[0]
    for other in folders[1:]:
        if not _same_images(first.request, other.request):
            told = " and ".join(
                f"{f.root} is about {f.request.run['data']} {_digest(f.request)[:12]}".rstrip()
                for f in (first, other)
            )
            raise BadRequest(f"one table is about one set of images, but {told}")
    if any(out.resolve() == folder.root.resolve() for folder in folders):
        raise BadRequest(f"{out} is one of the folders to merge; choose another --out")
    if out.exists() and not out.is_dir():
        raise BadRequest(f"{out} is not a folder; choose another --out")
    if out.exists() and any(out.iterdir()) and not _is_merged(out):
        raise BadRequest(f"{out} exists and holds no earlier merging; choose another --out")


def _same_images(one: Manifest, other: Manifest) -> bool:
    """By their digests; by their names where an older folder knows no digest."""
    if _digest(one) and _digest(other):
        return _digest(one) == _digest(other)
    return bool(one.run["data"] == other.run["data"])


def _digest(request: Manifest) -> str:
    return str(request.run.get("data_digest", ""))


def _is_merged(out: Path) -> bool:
    return (out / FILE).exists() and "merged" in Manifest.load(out).run


def _joined(key: str, folders: Iterable[_Folder]) -> TrialResult | None:
    """The shards of all folders. Raises BadFile where two of them differ about one."""
    whole: TrialResult | None = None
    shards: dict[int, tuple[ShardResult, Path]] = {}
    for folder in folders:
        record, path = folder.store.read(key), folder.store.path(key)
        whole = whole or record
        for tally in record.tallies if record else ():
            known, place = shards.setdefault(tally.start, (tally, path))
            if known.bits != tally.bits:
                raise BadFile(
                    f"{place} and {path} answer differently for the images from {tally.start} on; "
                    "leave one of the folders out"
                )
    return replace(whole, tallies=tuple(shards[start][0] for start in sorted(shards))) if whole else None


def _answered_twice(records: Iterable[TrialResult], images: int) -> set[str]:
    """Keys of answers to spare: asked at two batch sizes a question has two, the first whole one is shown."""
    alike: dict[Trial, list[TrialResult]] = {}
    for record in records:
        alike.setdefault(replace(record.trial, batch=0), []).append(record)
    spare: set[str] = set()
    for same in alike.values():
        shown = next((record for record in same if record.covers(images)), same[0])
        spare |= {record.trial.key for record in same if record is not shown}
    return spare


def _notes(folders: Sequence[_Folder], spare: set[str]) -> Iterable[str]:
    images = [folder.request.images for folder in folders]
    if len(set(images)) > 1:
        told = ", ".join(f"{f.root} about {n}" for f, n in zip(folders, images, strict=True))
        yield f"not all ask about as many images ({told}): the tables show the first {min(images)}"
    if spare:
        yield f"{len(spare)} answers are left out: another batch size gave the same question another one"
