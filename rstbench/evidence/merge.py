"""Merge the evidence of several folders: of runs, machines or studies of the same images.

Shards of one trial are joined, the manifests united. Packed evidence is read as well, and written as files.
Models are not copied. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import BadRequest, listed
from ..files import fill_folder, refuse_links
from .manifest import MANIFEST_FILE, Manifest
from .part import MODELS, ONLY, missing_shards
from .store import Store, join, record_file
from .trial import Trial, TrialResult
from .unite import unite


@dataclass(frozen=True)
class _Folder:
    root: Path
    manifest: Manifest
    store: Store


def merge(roots: Sequence[Path], out: Path) -> list[str]:
    """Write the evidence of folders to `out`, a folder that reads like one that `evaluate` wrote; returns
    notes for the user.

    An earlier merging in `out` is written over. Raises BadRequest where the folders are about other images
    or `out` is something else, BadFile where two of them answer one question differently.
    """
    folders = _open(roots)
    _refuse(folders, out)
    manifest = unite([folder.manifest for folder in folders], _names(folders))
    keys = dict.fromkeys(key for folder in folders for key in folder.manifest.keys)
    records = [record for key in keys if (record := _read(key, [folder.store for folder in folders]))]
    packed = Store(out)  # an earlier merging may have been packed since
    for record in records:
        if earlier := packed.read_packed(record.trial.key):
            place = packed.describe(record.trial.key)
            join([(place, earlier), ("the folders to merge", record)], "choose another --out")
    files = {f"results/{record.trial.key}.jsonl": record_file(record) for record in records}
    duplicates = _answered_twice(records, manifest.images)
    manifest = replace(manifest, keys=tuple(key for key in manifest.keys if key not in duplicates))
    fill_folder(out, {**files, MANIFEST_FILE: manifest.file()})  # the manifest last
    return list(_notes(folders, manifest.run, duplicates))


def _open(roots: Sequence[Path]) -> list[_Folder]:
    """Open each folder once, in the order named."""
    unique: dict[Path, Path] = {}
    for root in roots:
        unique.setdefault(root.resolve(), root)
    return [_Folder(root, Manifest.load(root), Store(root)) for root in unique.values()]


def _names(folders: Sequence[_Folder]) -> list[str]:
    """Return the shortest path suffixes that distinguish the folders."""
    paths = [folder.root.resolve().parts for folder in folders]
    lengths = range(1, max(map(len, paths)) + 1)
    candidates = (["/".join(parts[-length:]) for parts in paths] for length in lengths)
    return next(names for names in candidates if len(set(names)) == len(names))


def _refuse(folders: Sequence[_Folder], out: Path) -> None:
    """Raise BadRequest for folders that cannot be merged, or not into `out`."""
    first = folders[0]
    for other in folders[1:]:
        if not _same_images(first.manifest, other.manifest):
            both = " and ".join(
                f"{f.root} is about {f.manifest.run['data']} {_data_digest(f.manifest)[:12]}".rstrip()
                for f in (first, other)
            )
            raise BadRequest(f"one table is about one set of images, but {both}")
    if any(out.resolve() == folder.root.resolve() for folder in folders):
        raise BadRequest(f"{out} is one of the folders to merge; choose another --out")
    if out.exists() and not out.is_dir():
        raise BadRequest(f"{out} is not a folder; choose another --out")
    is_merged = (out / MANIFEST_FILE).exists() and "merged" in Manifest.load(out).run
    refuse_links(out)
    if out.exists() and any(out.iterdir()) and not is_merged:
        raise BadRequest(f"{out} exists and holds no earlier merging; choose another --out")


def _same_images(one: Manifest, other: Manifest) -> bool:
    """Compare images by their digests, or by their names where an older folder knows no digest."""
    if _data_digest(one) and _data_digest(other):
        return _data_digest(one) == _data_digest(other)
    return bool(one.run["data"] == other.run["data"])


def _data_digest(manifest: Manifest) -> str:
    return str(manifest.run.get("data_digest", ""))


def _read(key: str, stores: Iterable[Store]) -> TrialResult | None:
    """Return the shards of all folders. Raises BadFile where two of them differ about one."""
    pieces = [(store.describe(key), record) for store in stores if (record := store.read(key))]
    return join(pieces, "leave one of the folders out") if pieces else None


def _answered_twice(records: Iterable[TrialResult], images: int) -> set[str]:
    """Return the keys to leave out: of answers at two batch sizes, only the first complete one is shown."""
    same_question: dict[Trial, list[TrialResult]] = {}
    for record in records:
        same_question.setdefault(replace(record.trial, batch=0), []).append(record)
    duplicates: set[str] = set()
    for answers in same_question.values():
        best = next((record for record in answers if record.covers(images)), answers[0])
        duplicates |= {record.trial.key for record in answers if record is not best}
    return duplicates


def _notes(folders: Sequence[_Folder], united: Mapping[str, Any], duplicates: set[str]) -> Iterable[str]:
    images = [folder.manifest.images for folder in folders]
    if len(set(images)) > 1:
        counts = ", ".join(f"{f.root} about {n}" for f, n in zip(folders, images, strict=True))
        yield f"not all ask about as many images ({counts}): the tables show the first {min(images)}"
    runs = [folder.manifest.run for folder in folders]
    if missing := set(united.get(MODELS, ())) - set(united.get(ONLY, ())):
        yield f"parts of a study are missing: none of these folders asks about {listed(sorted(missing))}"
    if shards := missing_shards(runs):
        yield f"parts of a study are missing: none of these folders has --shards {listed(shards)}"
    if duplicates:
        yield f"{len(duplicates)} answers are left out: another batch size gave the same question another one"
