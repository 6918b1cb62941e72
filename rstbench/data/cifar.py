"""CIFAR-10, CIFAR-100 (Krizhevsky 2009) and SVHN (Netzer et al. 2011), through torchvision.

torchvision checks the md5 sums it knows; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import BadFile, BadRequest
from .images import Found, no_id
from .layout import FIRST


def cifar10(id: str, split: str, root: Path) -> Found:
    """Read 50,000 training and 10,000 test images, 3x32x32, uint8; from ROOT/cifar-10-batches-py."""
    from torchvision.datasets import CIFAR10

    no_id("cifar10", id)
    return Found(*_cifar(CIFAR10, split, root), 10, layout=FIRST)


def cifar100(id: str, split: str, root: Path) -> Found:
    """Read 50,000 training and 10,000 test images of 100 fine classes; from ROOT/cifar-100-python."""
    from torchvision.datasets import CIFAR100

    no_id("cifar100", id)
    return Found(*_cifar(CIFAR100, split, root), 100, layout=FIRST)


def svhn(id: str, split: str, root: Path) -> Found:
    """Read 73,257 training and 26,032 test house numbers, 3x32x32, uint8; from ROOT/<split>_32x32.mat."""
    from torchvision.datasets import SVHN

    no_id("svhn", id)
    _two_splits("svhn", split)
    path = root / f"{split}_32x32.mat"
    if not path.is_file():
        raise BadFile(f"no file {path}; set --data-root or RSTBENCH_DATA to its folder")
    try:
        dataset = SVHN(str(root), split=split, download=False)
    except (RuntimeError, ValueError) as error:
        raise BadFile(f"{path} cannot be read, or has another md5 sum: {error}") from None
    return Found(dataset.data, dataset.labels.astype(np.int64), 10, layout=FIRST)


def _cifar(kind: type, split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    _two_splits(kind.__name__.lower(), split)
    folder = root / kind.base_folder  # type: ignore[attr-defined]
    if not folder.is_dir():
        raise BadFile(
            f"no {kind.__name__} at {folder}; set --data-root or RSTBENCH_DATA to the folder that holds "
            f"{folder.name}"
        )
    try:
        dataset = kind(root, train=split == "train", download=False)
    except RuntimeError:
        raise BadFile(f"a file in {folder} is missing or has another md5 sum") from None
    return dataset.data.transpose(0, 3, 1, 2), np.array(dataset.targets, dtype=np.int64)


def _two_splits(name: str, split: str) -> None:
    if split not in ("train", "test"):
        raise BadRequest(f"{name} has the splits train and test; a validation part is held out of train")
