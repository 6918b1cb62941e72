"""Compute means and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

DIGITS = 6
LEVEL = "95 %"  # of all intervals; changed together with Z
Z = 1.959963984540054  # the quantile of the normal distribution for it, 0.975
INTERVAL = f"Wilson's at {LEVEL}"  # what `confidence_interval` computes


def confidence_interval(mean: float, n: int) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion `mean` of `n` images (Wilson 1927).

    For per-image values inside [0, 1] rather than bits it is conservative. (0, 1) where n is 0.
    """
    if n == 0:
        return 0.0, 1.0
    z2 = Z * Z
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Return (difference, low, high) of two means over the same images, with their interval.

    Both of shape (images,), values in [0, 1]. The interval is the adjusted Wald interval of paired
    proportions: the differences with one +1 and one -1 added (Bonett and Price 2012). For values
    between 0 and 1 it is conservative. (0, -1, 1) where there are no images.
    """
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if differences.size == 0:
        return 0.0, -1.0, 1.0
    adjusted = np.concatenate([differences, [1.0, -1.0]])
    centre, half = float(adjusted.mean()), Z * float(adjusted.std()) / math.sqrt(adjusted.size)
    return float(differences.mean()), max(-1.0, centre - half), min(1.0, centre + half)


def interval(values: np.ndarray) -> dict[str, float | None]:
    """Return the mean over images with its interval, as three cells of a table."""
    robust = mean(values)
    low, high = confidence_interval(robust or 0.0, len(values))
    return {"robust": robust, "robust_low": short(low), "robust_high": short(high)}


def mean(values: np.ndarray | None) -> float | None:
    """Return the mean, rounded for a table; None for no values."""
    return None if values is None else short(float(values.mean()))


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Return (mean, sample standard deviation) of one value a seed.

    Both are nan unless every seed has a value; the deviation of one seed is nan.
    """
    array = np.asarray(values, dtype=float)
    if not array.size:
        return math.nan, math.nan
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan


def short(value: float | None) -> float | None:
    """Round a value to the digits of a table."""
    return None if value is None else round(value, DIGITS)
