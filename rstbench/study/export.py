"""The verb `export`: write a ticket or checkpoint in another format, with the figures measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Images, load
from ..errors import BadFile, BadRequest
from ..evidence.manifest import MANIFEST_FILE
from ..models.exports.bundle import ExportBundle, folded_bundle
from ..models.sources.native import checkpoint_model, ticket_model
from ..models.wrapper import EvalModel, load_reference
from ..plugins import find
from ..references import DataReference
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
    """Write a ticket or checkpoint (itself, its file, or any reference to it) to `out`; return the files.

    results: the folder whose evidence tells what was measured, by default the run the file lies in; data:
    whose shape and classes a reference to bare weights takes. Raises BadRequest.
    """
    write = find("exports", format)
    if compressed and format not in COMPRESSED:
        raise BadRequest(f"--compressed goes with --to {', '.join(COMPRESSED)}; {format} holds dense weights")
    loaded = _load(model, load(data, root) if data else None, out.stem)
    assert loaded.artifact is not None
    file = _file_of(model) if isinstance(model, str) else None
    if file and out.exists() and out.samefile(file):
        raise BadRequest(f"{out} is the model's own file; choose another --out")
    bundle = ExportBundle(loaded.info.name, loaded.module, loaded.artifact, compressed=compressed)
    bundle = replace(bundle, rows=_rows(loaded, file, results))
    if fold:
        bundle = folded_bundle(bundle, *_images(bundle, root))
    written: list[Path] = write(bundle, out)
    return written


def _load(model: str | Network, images: Images | None, name: str) -> EvalModel:
    """Load what is given, or named by a reference or by a bare path to a file of this tool."""
    if isinstance(model, Ticket):
        return ticket_model(model, name)
    if isinstance(model, Checkpoint):
        return checkpoint_model(model, name)
    if ":" not in model or not model.partition(":")[0].isidentifier():
        try:
            return load_reference(f"ticket:{model}")
        except BadFile as error:
            if CHECKPOINT not in str(error):
                raise
            return load_reference(f"checkpoint:{model}")
    loaded = load_reference(model, images)
    if loaded.artifact is None:
        raise BadRequest(f"{model} is neither a ticket nor a checkpoint")
    return loaded


def _file_of(reference: str) -> Path | None:
    source, colon, id = reference.partition(":")
    path = Path(id if colon and source in ("ticket", "checkpoint") else reference).expanduser()
    return path if path.is_file() else None


def _rows(model: EvalModel, file: Path | None, results: str | None) -> Sequence[Mapping[str, Any]]:
    """Return the leaderboard's rows on this model; none where nothing was measured."""
    parents = list(file.resolve().parents[:2]) if file else []
    folders = (
        [Path(results).expanduser()] if results else [p for p in parents if (p / MANIFEST_FILE).is_file()]
    )
    if not folders:
        return []
    folder = folders[0]
    rows = lines_of(Evidence.read(folder), model.digest)
    if results and not rows:
        raise BadRequest(f"{folder} has no answer about {model.info.name}; choose other --results")
    return rows


def _images(bundle: ExportBundle, root: Path) -> tuple[Tensor, str]:
    """Return images to measure on, and what they are: test images of its data where they can be read."""
    test = DataReference.parse(bundle.artifact.recipe.data).all_of("test")
    try:
        images = load(test, root).first(IMAGES)
    except BadRequest:
        images = None
    if images and images.shape == bundle.shape:
        return images.at(slice(None))[0], f"the first {len(images)} images of {test}"
    x = torch.rand((IMAGES, *bundle.shape), generator=torch.Generator().manual_seed(0))
    return x, f"{IMAGES} images of uniform noise"
