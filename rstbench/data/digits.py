"""scikit-learn's handwritten digits: 1,797 real 8x8 images, 10 classes, no download.

Source: E. Alpaydin and C. Kaynak, UCI machine learning repository, through `sklearn.datasets`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .images import no_id

SPLIT_SEED = 0
SIZES = {"train": 1200, "validation": 147, "test": 450}


def digits(id: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Read pixels 0..16 as float in [0, 1]; a permutation by a fixed seed is cut into the three splits."""
    from sklearn.datasets import load_digits

    no_id("digits", id)
    bunch = load_digits()
    # RandomState's stream is frozen by numpy's compatibility policy; default_rng's is not.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(bunch.target))
    start = sum(SIZES[before] for before in list(SIZES)[: list(SIZES).index(split)])
    chosen = order[start : start + SIZES[split]]
    return (bunch.images[chosen] / 16).astype(np.float32), bunch.target[chosen].astype(np.int64), 10


digits.splits = tuple(SIZES)  # type: ignore[attr-defined]  # it has a validation split of its own
