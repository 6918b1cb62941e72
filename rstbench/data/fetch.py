"""Download data sets when and only when asked to, through torchvision, which checks the md5 sums."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import BadFile
from ..references import DataReference
from .images import load

# Classes of torchvision by name of the data set; all but SVHN are asked with `train=`, see `_fetch`.
CLASSES = {
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}


def download(data: Iterable[DataReference], root: Path) -> None:
    """Put the named data sets under `root`, training and test images, where they cannot be read there yet.

    Names with an id are the user's own files. Raises BadFile where the download fails, and for missing data
    that is none of `CLASSES`.
    """
    for source, reference in sorted({reference.source: reference for reference in data}.items()):
        if source in CLASSES:
            for split in ("train", "test"):
                if not _readable(f"{source}:{split}", root):
                    _fetch(source, split, root)
        elif not reference.id:
            try:
                load(reference, root)
            except BadFile as error:
                raise BadFile(f"{error}; downloads are known of {', '.join(CLASSES)} only") from None


def _readable(text: str, root: Path) -> bool:
    try:
        load(text, root)
    except BadFile:
        return False
    return True


def _fetch(source: str, split: str, root: Path) -> None:
    from torchvision import datasets

    kind = getattr(datasets, CLASSES[source])
    which = {"split": split} if source == "svhn" else {"train": split == "train"}
    try:
        kind(str(root), download=True, **which)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadFile(f"{source} cannot be downloaded to {root}: {error}") from None
