"""Two-sided verdicts: what is proved of a row, what is broken, and where the two contradict each other.

A certificate bounds the accuracy under any attacker from below as attacks bound it from above. In a study
with a curve, answers at one eps tell about others of its norm: what is broken at a smaller eps is broken at a
larger one, what is certified at a larger is certified at a smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np

from ..evidence.manifest import Row
from ..evidence.trial import COUNTEREXAMPLE, TrialResult
from ..threat import Threat
from .lookup import Evidence


def certified(evidence: Evidence, row: Row) -> np.ndarray | None:
    """Return the proved probability that a model is right on each image, shape (images,).

    It is 0 or 1; of a random switch the probability of drawing a member for which that is proved, whatever
    the attacker knows. None where no certificate was asked, or one of them has no complete answer.
    """
    found: list[np.ndarray] = []
    for other in (other for other in nested_rows(evidence, row) if _eps(other) >= _eps(row)):
        proved = _certified_at(evidence, other)
        if proved is not None:
            found.append(proved)
        elif other == row:
            return None
    return np.maximum.reduce(found) if found else None


def _certified_at(evidence: Evidence, row: Row) -> np.ndarray | None:
    """Return what `certified` does, from the answers at the row's own eps."""
    if not row.certificates:
        return None
    total = np.zeros(evidence.manifest.images)
    for member, weight in evidence.members(row.model):
        bits = [proved(evidence, member, certificate, row.threat) for certificate in row.certificates]
        complete = [one for one in bits if one is not None]
        if len(complete) < len(bits):
            return None
        total += weight * np.maximum.reduce(complete)
    return total


def proved(evidence: Evidence, model: str, certificate: str, threat: str) -> np.ndarray | None:
    """Return 1.0 where a certificate proves a model's class, shape (images,); None without an answer."""
    record = evidence.proofs.get((model, certificate, threat))
    return None if record is None else _as_array(record.bits[: evidence.manifest.images])


def counterexamples(evidence: Evidence, row: Row) -> np.ndarray:
    """Return 1.0 where a certificate of a plain model has found an image that it gets wrong, (images,)."""
    broken = np.zeros(evidence.manifest.images)
    if not evidence.info(row.model).members:
        for certificate in row.certificates:
            if record := evidence.proofs.get((row.model, certificate, row.threat)):
                broken = np.maximum(broken, _stage(record, evidence.manifest.images))
    return broken


def contradiction(evidence: Evidence, row: Row) -> str:
    """Return a line that names the two files of which one proves what the other refutes; '' where none does.

    Every image that was crafted within the threat counts, whatever model it was crafted against; along a
    curve also what was crafted at smaller eps, and what is proved at larger ones.
    """
    rows = nested_rows(evidence, row) if row.certificates else []
    within = {other.threat for other in rows if _eps(other) <= _eps(row)}
    beyond = [other for other in rows if _eps(other) >= _eps(row)]
    for member, _ in evidence.members(row.model):
        for proof in (proof for other in beyond for proof in _proofs_of(evidence, other, member)):
            bits = _as_array(proof.bits[: evidence.manifest.images]) > 0
            for record in _refuting(evidence, member, within):
                wrong = _as_array(record.bits[: evidence.manifest.images]) == 0
                if record.trial.kind == proof.trial.kind:
                    wrong = _stage(record, evidence.manifest.images) > 0
                if both := np.flatnonzero(bits & wrong).tolist():
                    return (
                        f"{evidence.info(member).name} at {row.threat}: image {both[0]} is certified by "
                        f"{_file(evidence, proof)} and broken by {_file(evidence, record)}"
                        f"{f', as are {len(both) - 1} others' if len(both) > 1 else ''}: one of them is "
                        f"wrong, and the row has no figures"
                    )
    return ""


def contradictions(evidence: Evidence) -> list[str]:
    """Return the line of every row that contradicts itself, each once."""
    lines = (contradiction(evidence, row) for row in evidence.manifest.rows if row.certificates)
    return list(dict.fromkeys(filter(None, lines)))


def nested_rows(evidence: Evidence, row: Row) -> list[Row]:
    """Return the rows of one model, norm and seed whose answers tell about one another, this one among them:
    those of the curve of the study, where it has one of that norm."""
    curve = evidence.manifest.study.get("curve", {})
    norm = Threat.parse(row.threat).norm
    if curve.get("norm") != norm:
        return [row]
    return [
        other
        for other in evidence.manifest.rows
        if (other.model, other.seed) == (row.model, row.seed) and Threat.parse(other.threat).norm == norm
    ]


def _eps(row: Row) -> float:
    return float(Threat.parse(row.threat).eps)


def _proofs_of(evidence: Evidence, row: Row, member: str) -> Iterator[TrialResult]:
    for certificate in row.certificates:
        if record := evidence.proofs.get((member, certificate, row.threat)):
            yield record


def _refuting(evidence: Evidence, model: str, threats: Set[str]) -> Iterator[TrialResult]:
    """Yield the answers that may show a model wrong within threats: on crafted images, whoever they were
    crafted against, on clean ones, and on counterexamples."""
    for (_, target, _, threat, _), record in evidence.records.items():
        if target == model and (threat in threats or not threat):
            yield record
    for (target, _, threat), record in evidence.proofs.items():
        if target == model and threat in threats:
            yield record


def _stage(record: TrialResult, images: int) -> np.ndarray:
    """Return 1.0 where a counterexample broke an image, (images,)."""
    bits = ["0"] * images
    for shard in record.within(images):
        for place, bit in enumerate(shard.stages.get(COUNTEREXAMPLE, ""), shard.start):
            if place < images:
                bits[place] = bit
    return _as_array("".join(bits))


def _as_array(bits: str) -> np.ndarray:
    return np.frombuffer(bits.encode(), dtype=np.uint8) - 48.0


def _file(evidence: Evidence, record: TrialResult) -> str:
    """Return `crown (results/….jsonl, 0123456789ab)`: where it lies, and the beginning of its key."""
    places = " and ".join(evidence.places.get(record.trial.key, ()))
    return f"{record.trial.attack} ({places}, {record.trial.key[:12]})"
