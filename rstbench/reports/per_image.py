"""Return the answers to one row of the request, image by image."""

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

    clean: on clean images; attacks: under each attack of the row, None where its answer is not complete;
    worst: under the most successful attack of each image, None unless every attack has an answer.
    """

    clean: np.ndarray
    attacks: dict[str, np.ndarray | None]
    worst: np.ndarray | None

    def known(self) -> dict[str, np.ndarray]:
        """Return the attacks that have an answer, and `worst` last."""
        every = {**self.attacks, WORST: self.worst}
        return {attack: values for attack, values in every.items() if values is not None}


def per_image_answers(evidence: Evidence, row: Row) -> PerImage | None:
    """Return the answers to a row; None for a model without an answer on clean images."""
    clean = evidence.robust(row.model, CLEAN, row.threat, row.seed)
    if clean is None:
        return None
    attacks = {attack: evidence.robust(row.model, attack, row.threat, row.seed) for attack in row.attacks}
    complete = [values for values in attacks.values() if values is not None]
    # The clean image lies in the ball: a model that is wrong on it is not robust.
    worst = np.minimum.reduce([clean, *complete]) if complete and len(complete) == len(attacks) else None
    return PerImage(clean, attacks, worst)
