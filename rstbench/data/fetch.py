"""Downloads, when and only when they are asked for, through torchvision, which checks the md5 sums."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import BadFile
from ..references import DataReference
from .images import load

CLASSES = {
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}


def download(data: Iterable[DataReference], root: Path) -> None:
    """Put the named data sets under `root`, training and test images, where they cannot be read there yet.

    Names that torchvision does not know are left alone. Raises BadFile where the download fails.
    """
    for source in sorted({reference.source for reference in data} & set(CLASSES)):
        for split in ("train", "test"):
            if not _readable(f"{source}:{split}", root):
                _fetch(source, split, root)


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
