"""`digits:test:150`, `cifar10:test`, `npz:FILE:test:100` as labelled images with a digest.

A source is a callable `(id, split, root) -> (pixels, labels)` or `(pixels, labels, classes)`:
pixels (n, c, h, w) or (n, h, w), uint8 in 0..255 or float in [0, 1]; labels (n,), whole numbers from
0; classes the number of classes where it is known. Sources: the built-in ones beside this module,
and entry points in the group `rstbench.data`. One with a validation split of its own says so in an
attribute `splits`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadRequest
from ..plugins import find

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Images:
    """Labelled images in a fixed order.

    pixels: (n, c, h, w), uint8 or float32 in [0, 1]; labels: (n,), int64; classes: how many there
    are, or at least how many labels were seen (`classes_known` tells which); digest: sha256 of the
    whole split, so that the first 100 and the first 1,000 images are of one data set.
    """

    name: str  # without the number of images: 'digits:test'
    pixels: Tensor
    labels: Tensor
    classes: int
    digest: str
    classes_known: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def at(self, where: Tensor | slice) -> tuple[Tensor, Tensor]:
        """(x, y): float32 images in [0, 1] and int64 labels at these indices."""
        pixels = self.pixels[where]
        x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        return x, self.labels[where]

    def first(self, count: int) -> Images:
        """The first `count` images; the digest stays that of the whole split."""
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count])

    def take(self, where: Tensor) -> Images:
        """The images at these indices, for learning from a part."""
        return replace(self, pixels=self.pixels[where], labels=self.labels[where])


def data_root(given: str | None = None) -> Path:
    """Where data sets lie: `given`, else $RSTBENCH_DATA, else ~/.cache/rstbench."""
    return Path(given or os.environ.get("RSTBENCH_DATA") or Path.home() / ".cache" / "rstbench")


def load(text: str, root: Path | None = None) -> Images:
    """Reads `name[:id][:split][:N]`; the split is `test` where none is named.

    Raises BadRequest for unknown names, missing or malformed files, and empty data.
    """
    source, name, split, count = parse(text)
    read, whole = find("data", source), ":".join(filter(None, (source, name, split)))
    try:
        images = _checked(*read(name, split, root or data_root()), name=whole)
    except BadRequest:
        raise
    except Exception as error:  # of a source of others, or for arrays of a strange kind
        raise BadRequest(f"{whole} cannot be read: {error!r}") from error
    if count is not None and count > len(images):
        raise BadRequest(f"{images.name} has {len(images)} images, {count} were asked for in {text!r}")
    return images if count is None else images.first(count)


def parse(text: str) -> tuple[str, str, str, int | None]:
    """(source, id, split, number of images or None for all); read from the right, ids may hold colons."""
    source, *rest = text.strip().split(":")
    count = None
    if rest and rest[-1].isascii() and rest[-1].isdigit():
        count = int(rest.pop())
        if count == 0:
            raise BadRequest(f"the data {text!r} are empty; ask for at least one image")
    split = rest.pop() if rest and rest[-1] in SPLITS else "test"
    if not source:
        raise BadRequest(f"data must read 'name:test:1000', got {text!r}")
    return source, ":".join(rest), split, count


def training_images(text: str, root: Path | None = None) -> tuple[Images, Images | None]:
    """(the training images, the source's own validation split or None); `cifar10` means its training split.

    Raises BadRequest where `text` names another split.
    """
    source, name, split, count = parse(text)
    if split != "train" and split in text.split(":"):
        raise BadRequest(f"learning takes training images, got {text!r}; write {source + ':train'!r}")
    base = ":".join(filter(None, (source, name)))
    train = load(f"{base}:train" + (f":{count}" if count else ""), root)
    own = "validation" in getattr(find("data", source), "splits", ())
    return train, load(f"{base}:validation", root) if own else None


def no_id(source: str, name: str) -> None:
    """For sources that take no id: `digits:tset` is a misspelt split, not a name."""
    if name:
        raise BadRequest(f"{source} takes a split of {', '.join(SPLITS)} and a number, got {name!r}")


def _tensor(values: Any) -> Tensor:
    """Tensors as they are; arrays in this machine's byte order, whole numbers that torch lacks as int64."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(
        np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)
    )


def _checked(pixels: Any, labels: Any, classes: int | None = None, *, name: str) -> Images:
    x, y = _tensor(pixels), _tensor(labels)
    x = x[:, None] if x.dim() == 3 else x
    if y.numel() == 0 or x.numel() == 0:
        raise BadRequest(f"the data {name!r} are empty")
    if x.dim() != 4 or y.dim() != 1 or len(x) != len(y):
        raise BadRequest(
            f"{name}: wanted images (n, c, h, w) and labels (n,), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if y.dtype.is_floating_point or y.dtype.is_complex or bool((y < 0).any()):
        raise BadRequest(f"{name}: labels must be whole numbers from 0")
    if x.dtype != torch.uint8:
        x = x if x.dtype.is_complex else x.float()
        if x.dtype.is_complex or not bool(x.isfinite().all()) or float(x.min()) < 0 or float(x.max()) > 1:
            raise BadRequest(
                f"{name}: pixels must be uint8, or numbers in [0, 1], got {float(x.real.min()):g} to "
                f"{float(x.real.max()):g}; normalisation belongs into the model"
            )
    x, y = x.contiguous(), y.long().contiguous()
    digest = hashlib.sha256(f"{x.dtype}{tuple(x.shape)}".encode())
    digest.update(x.numpy().tobytes())
    digest.update(y.numpy().tobytes())
    seen = int(y.max()) + 1
    if classes is not None and seen > classes:
        raise BadRequest(f"{name}: a label is {seen - 1}, but there are {classes} classes")
    return Images(name, x, y, classes or seen, digest.hexdigest(), classes is not None)
