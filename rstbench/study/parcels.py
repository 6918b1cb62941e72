"""The verb `export`: what was made, in another format, with what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.entry import Entry, load_entry
from ..adapters.exports.parcel import Parcel, folded_parcel
from ..data import load, parse
from ..errors import BadRequest
from ..harness.request import FILE
from ..plugins import find
from ..reporters.evidence import Evidence
from ..reporters.tables import rows_of

COMPRESSED = ("state_dict",)  # formats that can do without zeros
IMAGES = 100  # on which folding is measured


def export_model(
    reference: str,
    format: str,
    out: Path,
    *,
    fold: bool = False,
    compressed: bool = False,
    results: str | None = None,
    data: str | None = None,
    root: Path = Path("."),
) -> list[Path]:
    """Writes a ticket or checkpoint (a file, or any reference to one) to `out`; returns the files.

    results: the folder whose evidence tells what was measured, by default the run the file lies in; data:
    whose shape and classes a reference to bare weights takes. Raises BadRequest.
    """
    write = find("exports", format)
    if compressed and format not in COMPRESSED:
        raise BadRequest(f"--compressed goes with --to {', '.join(COMPRESSED)}; {format} holds dense weights")
    entry = _loaded(reference, load(data, root) if data else None)
    assert entry.made is not None
    file = _file_of(reference)
    if file and out.exists() and out.samefile(file):
        raise BadRequest(f"{out} is the model's own file; choose another --out")
    parcel = Parcel(entry.card.name, entry.module, entry.made, compressed=compressed)
    parcel = replace(parcel, rows=_rows(entry, file, results))
    if fold:
        parcel = folded_parcel(parcel, *_images(parcel, root))
    written: list[Path] = write(parcel, out)
    return written


def _loaded(reference: str, images: Any) -> Entry:
    """What is named by a reference, or by a bare path to a file of this tool."""
    text = reference
    if ":" not in reference or not reference.partition(":")[0].isidentifier():
        found = []
        for source in ("ticket", "checkpoint"):
            try:
                return load_entry(f"{source}:{reference}")
            except BadRequest as error:
                found.append(error)
        raise found[0] if f", but rstbench-{'checkpoint'}" not in str(found[0]) else found[1]
    entry = load_entry(text, images)
    if entry.made is None or entry.members:
        raise BadRequest(
            f"{reference} is neither a ticket nor a checkpoint; what is exported was made by one"
        )
    return entry


def _file_of(reference: str) -> Path | None:
    source, colon, rest = reference.partition(":")
    path = Path(rest if colon and source in ("ticket", "checkpoint") else reference).expanduser()
    return path if path.is_file() else None


def _rows(entry: Entry, file: Path | None, results: str | None) -> Sequence[Mapping[str, Any]]:
    """The leaderboard's lines on this model; none where nothing was measured."""
    folder = Path(results).expanduser() if results else file.resolve().parent.parent if file else None
    if folder is None or (not results and not (folder / FILE).is_file()):
        return []
    rows = rows_of(Evidence.read(folder), entry.digest)
    if results and not rows:
        raise BadRequest(f"{folder} has no answer about {entry.card.name}; choose other --results")
    return rows


def _images(parcel: Parcel, root: Path) -> tuple[Tensor, str]:
    """Images to measure on, and what they are: test images of its data where they can be read."""
    source, name, _, _ = parse(parcel.made.recipe.data)
    text = ":".join(filter(None, (source, name, "test")))
    try:
        images = load(text, root).first(IMAGES)
    except BadRequest:
        images = None
    if images and images.shape == parcel.shape:
        return images.at(slice(None))[0], f"the first {len(images)} images of {text}"
    x = torch.rand((IMAGES, *parcel.shape), generator=torch.Generator().manual_seed(0))
    return x, f"{IMAGES} images of uniform noise"
