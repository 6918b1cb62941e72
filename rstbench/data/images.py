"""Read `digits:test:150`, `cifar10:test`, `npz:FILE:test:100` as labelled images with a digest.

A source is a callable `(id, split, root) -> (pixels, labels[, classes[, notes[, layout]]])`, or `Found`,
which names these: pixels (n, c, h, w), (n, h, w, c) or (n, h, w), uint8 in 0..255 or float in [0, 1];
labels (n,), whole numbers from 0; classes the number of classes, None where it is not known; notes what a
person should know of the reading; layout 'nchw' or 'nhwc' where the source knows it. Sources: the
built-in ones beside this module, and entry points in the group `rstbench.data`. One with a validation
split of its own says so in an attribute `splits`. A source raises BadFile where its files are missing:
`--download` waits for that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import BadRequest
from ..plugins import find
from ..references import SPLITS, DataReference
from .labels import NUMBER_THEM, counts_from_one, integer_labels
from .layout import channels_first
from .pixels import to_unit_range


class Found(NamedTuple):
    """Hold what a source has read, before it is checked; every source may return a plain tuple like it."""

    pixels: Any
    labels: Any
    classes: int | None = None
    notes: Sequence[str] = ()
    layout: str = ""


@dataclass(frozen=True)
class Images:
    """Labelled images in a fixed order.

    pixels: (n, c, h, w), uint8 or float32 in [0, 1]; labels: (n,), int64; classes: how many there
    are, or at least how many labels were seen (`classes_known` tells which); digest: sha256 of the
    whole split, so that the first 100 and the first 1,000 images are of one data set; notes: what was
    moved, left out, clipped or doubtful when they were read.
    """

    name: str  # without the number of images: 'digits:test'
    pixels: Tensor
    labels: Tensor
    classes: int
    digest: str
    classes_known: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def summary(self) -> str:
        """Write one line: number, shape, range as it was read, classes, and the notes."""
        x, y = self.pixels, self.labels
        low, high = (float(x.min()), float(x.max()))
        white = 255 if x.dtype == torch.uint8 else 1
        classes = f"{self.classes} class{'es' if self.classes > 1 else ''}"
        if not self.classes_known:
            classes = f"at least {classes} (labels {int(y.min())} to {int(y.max())})"
        size = f"{len(self)} image{'s' if len(self) > 1 else ''} {'x'.join(map(str, self.shape))}"
        facts = f"{size}, pixels {low / white:.3g} to {high / white:.3g}, {classes}"
        return " ".join("; ".join((f"{self.name}: {facts}", *self.notes)).split())

    def at(self, where: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return float32 images in [0, 1] and int64 labels at these indices, `slice(None)` for all."""
        pixels = self.pixels[where]
        x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        return x, self.labels[where]

    def first(self, count: int) -> Images:
        """Return the first `count` images; the digest stays that of the whole split."""
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count])

    def take(self, where: Tensor) -> Images:
        """Return the images at these indices, for learning from a part."""
        return replace(self, pixels=self.pixels[where], labels=self.labels[where])


def data_root(given: str | None = None) -> Path:
    """Return where data sets lie: `given`, else $RSTBENCH_DATA, else ~/.cache/rstbench."""
    return Path(given or os.environ.get("RSTBENCH_DATA") or Path.home() / ".cache" / "rstbench")


def load(data: str | DataReference, root: Path | None = None) -> Images:
    """Read `name[:id][:split][:N]`; the split is `test` where none is named.

    Raises BadRequest for unknown names, missing or malformed files, and empty data.
    """
    reference = DataReference.parse(data) if isinstance(data, str) else data
    split = reference.split or "test"
    read, name = find("data", reference.source), str(reference.all_of(split))
    try:
        images = _checked(Found(*read(reference.id, split, root or data_root())), name)
    except BadRequest:
        raise
    except Exception as error:  # of a source of others, or for arrays of a strange kind
        raise BadRequest(f"{name} cannot be read: {error!r}") from error
    count = reference.count
    if count is not None and count > len(images):
        raise BadRequest(f"{images.name} has {len(images)} images, {count} were asked for in {str(data)!r}")
    return images if count is None else images.first(count)


def training_images(text: str, root: Path | None = None) -> tuple[Images, Images | None]:
    """Return the training images, and the source's own validation split or None; `cifar10` means its training
    split.

    Raises BadRequest where `text` names another split.
    """
    reference = DataReference.parse(text)
    source = reference.source
    if reference.split not in ("", "train"):
        raise BadRequest(f"learning takes training images, got {text!r}; write {source + ':train'!r}")
    train = load(replace(reference, split="train"), root)
    own = "validation" in getattr(find("data", source), "splits", ())
    return train, load(reference.all_of("validation"), root) if own else None


def no_id(source: str, id: str) -> None:
    """Raise BadRequest for an id, of sources that take none: `digits:tset` is a misspelt split."""
    if id:
        raise BadRequest(f"{source} takes a split of {', '.join(SPLITS)} and a number, got {id!r}")


def train_or_test(source: str, id: str, split: str) -> None:
    """Raise BadRequest for an id, and for a split that a source of these two does not have."""
    no_id(source, id)
    if split not in ("train", "test"):
        raise BadRequest(f"{source} has the splits train and test; a validation part is held out of train")


def _tensor(values: Any, what: str) -> tuple[Tensor, str]:
    """Return (a tensor on the CPU, the name of the type the values came in).

    Arrays in this machine's byte order, whole numbers that not every torch can compare as int64. Raises
    BadRequest for what are no numbers.
    """
    if isinstance(values, Tensor):
        tensor, stored = values.detach().cpu(), str(values.dtype).removeprefix("torch.")
        unsigned = stored.startswith("uint") and stored != "uint8"
        return (tensor.to(torch.int64) if unsigned else tensor), stored
    array = np.asarray(values)
    stored = "text" if array.dtype.kind in "SU" else array.dtype.name
    if array.dtype.kind not in "biufc":
        helps = NUMBER_THEM if what.endswith("labels") else "one array of one shape, of numbers, is wanted"
        raise BadRequest(f"{what} must be numbers, got {stored}; {helps}")
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    return torch.from_numpy(native.reshape(array.shape)), stored


def _checked(found: Found, name: str) -> Images:
    x, x_stored = _tensor(found.pixels, f"{name}: pixels")
    y, y_stored = _tensor(found.labels, f"{name}: labels")
    if y.numel() == 0 or x.numel() == 0:
        raise BadRequest(f"the data {name!r} are empty")
    y, flattened = integer_labels(y, len(x) if x.dim() else 1, y_stored, name)
    x, moved = channels_first(x, len(y), name, found.layout)
    x, assumed = to_unit_range(x, x_stored, name)
    x, y = x.contiguous(), y.contiguous()
    digest = hashlib.sha256(f"{x.dtype}{tuple(x.shape)}".encode())
    digest.update(x.numpy().tobytes())
    digest.update(y.numpy().tobytes())
    seen, classes = int(y.max()) + 1, found.classes
    if classes is not None and seen > classes:
        raise BadRequest(f"{name}: a label is {seen - 1}, but there are {classes} classes, from 0")
    doubt = counts_from_one(y) if classes is None else ()
    told = (found.notes,) if isinstance(found.notes, str) else found.notes
    notes = (*map(str, told), *moved, *assumed, *flattened, *doubt)
    return Images(name, x, y, classes or seen, digest.hexdigest(), classes is not None, notes)
