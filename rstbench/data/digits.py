"""scikit-learn's handwritten digits: 1,797 real 8x8 images, 10 classes, no download.

Source: E. Alpaydin and C. Kaynak, UCI machine learning repository, through `sklearn.datasets`.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .images import no_id

SPLIT_SEED = 0
SIZES = {"train": 1200, "validation": 147, "test": 450}


def digits(id: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Read pixels 0..16 as float in [0, 1]; a permutation by a fixed seed is cut into the three splits."""
    no_id("digits", id)
    images, labels = _all()
    # RandomState's stream is frozen by numpy's compatibility policy; default_rng's is not.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    start = sum(SIZES[before] for before in list(SIZES)[: list(SIZES).index(split)])
    chosen = order[start : start + SIZES[split]]
    return (images[chosen] / 16).astype(np.float32), labels[chosen].astype(np.int64), 10


@cache
def _all() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (1797, 8, 8) and labels (1797,) of all images.

    They are read from the file that scikit-learn brings: importing scikit-learn takes seconds.
    """
    spec = find_spec("sklearn")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                table = np.loadtxt(lines, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target


digits.splits = tuple(SIZES)  # type: ignore[attr-defined]  # it has a validation split of its own
