"""Downloads, when and only when they are asked for, through torchvision, which checks the md5 sums."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import BadFile
from .images import parse

CLASSES = {
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}


def download(texts: Iterable[str], root: Path) -> None:
    """Puts the named data sets under `root`, where they are not there yet.

    Names that torchvision does not know are left alone. Raises BadFile where the download fails.
    """
    for source, split in sorted({parse(text)[0:3:2] for text in texts if parse(text)[0] in CLASSES}):
        from torchvision import datasets

        kind = getattr(datasets, CLASSES[source])
        which = {"split": split} if source == "svhn" else {"train": split == "train"}
        try:
            kind(str(root), download=True, **which)
        except (OSError, RuntimeError, ValueError) as error:
            raise BadFile(f"{source} cannot be downloaded to {root}: {error}") from None
