"""What one row of the request was answered, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evidence.manifest import Row
from ..evidence.trial import CLEAN
from .lookup import Evidence

WORST = "worst"


@dataclass(frozen=True)
class PerImage:
    """Probabilities of being right, each of shape (images,).

    clean: on the images as they are; attacks: under each attack of the row, None where it has no whole
    answer; worst: under the most successful attack of each image, None unless every attack has one.
    """

    clean: np.ndarray
    attacks: dict[str, np.ndarray | None]
    worst: np.ndarray | None

    def known(self) -> dict[str, np.ndarray]:
        """The attacks that have an answer, and `worst` last."""
        every = {**self.attacks, WORST: self.worst}
        return {attack: values for attack, values in every.items() if values is not None}


def answers(evidence: Evidence, row: Row) -> PerImage | None:
    """None for a model without an answer on clean images: of it there is nothing to tell."""
    clean = evidence.robust(row.model, CLEAN, row.threat, row.seed)
    if clean is None:
        return None
    found = {attack: evidence.robust(row.model, attack, row.threat, row.seed) for attack in row.attacks}
    whole = [values for values in found.values() if values is not None]
    # The clean image lies in the ball: a model that is wrong on it is not robust.
    worst = np.minimum.reduce([clean, *whole]) if whole and len(whole) == len(found) else None
    return PerImage(clean, found, worst)
