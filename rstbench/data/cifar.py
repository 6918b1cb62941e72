"""CIFAR-10 (Krizhevsky 2009) from the extracted python batches, through torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import BadFile, BadRequest
from .images import no_id


def cifar10(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """50,000 training and 10,000 test images, 3x32x32, uint8; from ROOT/cifar-10-batches-py."""
    from torchvision.datasets import CIFAR10

    no_id("cifar10", name)
    if split not in ("train", "test"):
        raise BadRequest("cifar10 has the splits train and test; a validation part is held out of train")
    if not (root / CIFAR10.base_folder).is_dir():
        raise BadFile(
            f"no CIFAR-10 at {root / CIFAR10.base_folder}; set --data-root or RSTBENCH_DATA to its parent"
        )
    try:
        found = CIFAR10(root, train=split == "train", download=False)
    except RuntimeError:
        raise BadFile(f"a file in {root / CIFAR10.base_folder} is missing or has another md5 sum") from None
    return found.data.transpose(0, 3, 1, 2), np.array(found.targets, dtype=np.int64), 10
