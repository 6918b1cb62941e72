"""Return the answers to one row of the request, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..evidence.manifest import Row
from ..evidence.trial import CLEAN
from ..threat import Threat
from .certified import certified, contradiction, counterexamples, nested_rows
from .lookup import Evidence

WORST = "worst"


@dataclass(frozen=True)
class PerImage:
    """Probabilities of being right, each of shape (images,).

    clean: on clean images; attacks: under each attack of the row, None where its answer is not complete;
    worst: under the most successful attack of each image, None unless every attack has an answer; certified:
    what is proved (see `certified`), None where no certificate was asked or one has no answer.
    """

    clean: np.ndarray
    attacks: dict[str, np.ndarray | None]
    worst: np.ndarray | None
    certified: np.ndarray | None = None

    def known(self) -> dict[str, np.ndarray]:
        """Return the attacks that have an answer, and `worst` last."""
        every = {**self.attacks, WORST: self.worst}
        return {attack: values for attack, values in every.items() if values is not None}


def per_image_answers(evidence: Evidence, row: Row) -> PerImage | None:
    """Return the answers to a row; None for a model without an answer on clean images, and where one image is
    certified and broken at once."""
    clean = evidence.robust(row.model, CLEAN, row.threat, row.seed)
    if clean is None or contradiction(evidence, row):
        return None
    attacks = {attack: evidence.robust(row.model, attack, row.threat, row.seed) for attack in row.attacks}
    complete = [values for values in attacks.values() if values is not None]
    worst = None
    if complete and len(complete) == len(attacks):
        # The clean image lies in the ball: a model that is wrong on it is not robust.
        worst = np.minimum.reduce([clean, *complete, *_broken_elsewhere(evidence, row)])
    return PerImage(clean, attacks, worst, certified(evidence, row))


def _broken_elsewhere(evidence: Evidence, row: Row) -> Iterator[np.ndarray]:
    """Yield further answers that bound `worst`: of counterexamples of certificates, and in a study with a
    curve of attacks at smaller eps."""
    yield 1 - counterexamples(evidence, row)
    eps = Threat.parse(row.threat).eps
    for other in nested_rows(evidence, row):
        if Threat.parse(other.threat).eps < eps:
            answers = (evidence.robust(row.model, a, other.threat, row.seed) for a in other.attacks)
            yield from (values for values in answers if values is not None)
            yield 1 - counterexamples(evidence, other)
