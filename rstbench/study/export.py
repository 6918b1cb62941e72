"""The verb `export`: what was made, in another format, with what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Images, load, parse
from ..errors import BadFile, BadRequest
from ..evidence.manifest import FILE
from ..models.exports.bundle import ExportBundle, folded_bundle
from ..models.sources.native import checkpoint_entry, ticket_entry
from ..models.wrapper import EvalModel, load_reference
from ..plugins import find
from ..reports.leaderboard import lines_of
from ..reports.lookup import Evidence
from ..tickets.checkpoint import FORMAT as CHECKPOINT
from ..tickets.checkpoint import Checkpoint
from ..tickets.ticket import Ticket
from .build import Network

COMPRESSED = ("state_dict",)  # formats that can do without zeros
IMAGES = 100  # on which folding is measured


def export_model(
    model: str | Network,
    format: str,
    out: Path,
    *,
    fold: bool = False,
    compressed: bool = False,
    results: str | None = None,
    data: str | None = None,
    root: Path = Path("."),
) -> list[Path]:
    """Writes a ticket or checkpoint (itself, its file, or any reference to it) to `out`; returns the files.

    results: the folder whose evidence tells what was measured, by default the run the file lies in; data:
    whose shape and classes a reference to bare weights takes. Raises BadRequest.
    """
    write = find("exports", format)
    if compressed and format not in COMPRESSED:
        raise BadRequest(f"--compressed goes with --to {', '.join(COMPRESSED)}; {format} holds dense weights")
    entry = _loaded(model, load(data, root) if data else None, out.stem)
    assert entry.made is not None
    file = _file_of(model) if isinstance(model, str) else None
    if file and out.exists() and out.samefile(file):
        raise BadRequest(f"{out} is the model's own file; choose another --out")
    parcel = ExportBundle(entry.card.name, entry.module, entry.made, compressed=compressed)
    parcel = replace(parcel, rows=_rows(entry, file, results))
    if fold:
        parcel = folded_bundle(parcel, *_images(parcel, root))
    written: list[Path] = write(parcel, out)
    return written


def _loaded(model: str | Network, images: Images | None, name: str) -> EvalModel:
    """What is given, or named by a reference or by a bare path to a file of this tool."""
    if isinstance(model, Ticket):
        return ticket_entry(model, name)
    if isinstance(model, Checkpoint):
        return checkpoint_entry(model, name)
    if ":" not in model or not model.partition(":")[0].isidentifier():
        try:
            return load_reference(f"ticket:{model}")
        except BadFile as error:
            if CHECKPOINT not in str(error):
                raise
            return load_reference(f"checkpoint:{model}")
    entry = load_reference(model, images)
    if entry.made is None:
        raise BadRequest(f"{model} is neither a ticket nor a checkpoint")
    return entry


def _file_of(reference: str) -> Path | None:
    source, colon, rest = reference.partition(":")
    path = Path(rest if colon and source in ("ticket", "checkpoint") else reference).expanduser()
    return path if path.is_file() else None


def _rows(entry: EvalModel, file: Path | None, results: str | None) -> Sequence[Mapping[str, Any]]:
    """The leaderboard's lines on this model; none where nothing was measured."""
    near = list(file.resolve().parents[:2]) if file else []
    folders = [Path(results).expanduser()] if results else [run for run in near if (run / FILE).is_file()]
    if not folders:
        return []
    folder = folders[0]
    rows = lines_of(Evidence.read(folder), entry.digest)
    if results and not rows:
        raise BadRequest(f"{folder} has no answer about {entry.card.name}; choose other --results")
    return rows


def _images(parcel: ExportBundle, root: Path) -> tuple[Tensor, str]:
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
