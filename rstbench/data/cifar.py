"""CIFAR-10, CIFAR-100 (Krizhevsky 2009) and SVHN (Netzer et al. 2011), through torchvision.

torchvision checks the md5 sums it knows; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import BadFile
from .images import Found, train_or_test
from .layout import FIRST


def cifar10(id: str, split: str, root: Path) -> Found:
    """Read 50,000 training and 10,000 test images, 3x32x32, uint8; from ROOT/cifar-10-batches-py."""
    return _cifar("CIFAR10", 10, id, split, root)


def cifar100(id: str, split: str, root: Path) -> Found:
    """Read 50,000 training and 10,000 test images of 100 fine classes; from ROOT/cifar-100-python."""
    return _cifar("CIFAR100", 100, id, split, root)


def svhn(id: str, split: str, root: Path) -> Found:
    """Read 73,257 training and 26,032 test house numbers, 3x32x32, uint8; from ROOT/<split>_32x32.mat."""
    from torchvision.datasets import SVHN

    train_or_test("svhn", id, split)
    path = root / f"{split}_32x32.mat"
    if not path.is_file():
        raise BadFile(f"no file {path}; set --data-root or RSTBENCH_DATA to its folder")
    try:
        dataset = SVHN(str(root), split=split, download=False)
    except (RuntimeError, ValueError) as error:
        raise BadFile(f"{path} cannot be read, or has another md5 sum: {error}") from None
    return Found(dataset.data, dataset.labels.astype(np.int64), 10, layout=FIRST)


def _cifar(name: str, classes: int, id: str, split: str, root: Path) -> Found:
    from torchvision import datasets

    train_or_test(name.lower(), id, split)
    kind = getattr(datasets, name)
    folder = root / kind.base_folder
    if not folder.is_dir():
        raise BadFile(
            f"no {name} at {folder}; set --data-root or RSTBENCH_DATA to the folder that holds {folder.name}"
        )
    try:
        dataset = kind(root, train=split == "train", download=False)
    except RuntimeError:
        raise BadFile(f"a file in {folder} is missing or has another md5 sum") from None
    labels = np.array(dataset.targets, dtype=np.int64)
    return Found(dataset.data.transpose(0, 3, 1, 2), labels, classes, layout=FIRST)
