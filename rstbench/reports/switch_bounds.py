"""Evaluate a random switch under attackers who know more and more of it, and bound its accuracy.

T0 is the paper's protocol: attacker and defender draw a member independently, and the attack stops
at its first success. T1 is T0 without that stop. The others know the switch: T2 is PGD and APGD on the exact
expectation over its members, T3 AutoAttack on their mean probability, T4 ARC, T5 the greedy joint attack.
`minimum` takes for each image the worst of all crafted sets. Each is an exact expectation over the members
that answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..evidence.manifest import Row
from ..evidence.trial import CLEAN, attack_family, keeps_clean_images
from .lookup import AUTOATTACK, EARLY_STOP, Evidence, base_attack, options_of

SAMPLED = "sampled"  # AutoAttack on one random draw a call: the wrong way, and no level of its own
LEVELS = {"pgd": "T2", "apgd": "T2", AUTOATTACK: "T3", "screen": "T3", "arc": "T4", "joint": "T5"}
MINIMUM = "minimum"


@dataclass(frozen=True)
class AttackerResult:
    """Accuracy of a switch under one attacker.

    level: T0 to T5, `minimum` or another name; right: probability that the switch is right on each image,
    (sources, images), one row a source of the images; source_weights: probability of each source, (sources,).
    """

    level: str
    attack: str
    knows_switch: bool
    right: np.ndarray
    source_weights: np.ndarray

    def robust(self, queries: int = 1) -> np.ndarray:
        """Return the probability that every one of so many independent draws is right, shape (images,)."""
        robust: np.ndarray = self.source_weights @ self.right**queries
        return robust


@dataclass(frozen=True)
class SwitchBits:
    """All that was crafted for one switch or its members and judged by all of them, at one threat and seed.

    sets: (source, attack) -> bits (members, images); the clean images, ('', 'clean'), are one of them.
    """

    switch: str
    members: tuple[str, ...]
    weights: np.ndarray
    sets: dict[tuple[str, str], np.ndarray]

    @classmethod
    def of(cls, evidence: Evidence, row: Row) -> SwitchBits | None:
        """Read the sets of a row; None where it is no switch or has no answer on clean images."""
        if not evidence.info(row.model).members:
            return None
        members, weights = zip(*evidence.members(row.model), strict=True)
        sets = crafted_sets(evidence, row.model, row.threat, row.seed)
        return cls(row.model, members, np.array(weights), sets) if ("", CLEAN) in sets else None

    @property
    def clean(self) -> np.ndarray:
        """Expected accuracy on the clean images, (images,)."""
        clean: np.ndarray = self.weights @ self.sets["", CLEAN]
        return clean

    @property
    def errors(self) -> np.ndarray:
        """1.0 where a member is wrong, (sets, members, images)."""
        return 1 - np.stack(list(self.sets.values()))

    def attackers(self) -> list[AttackerResult]:
        """Return the result of every attacker that was asked, from T0 up, then the minimum of all sets."""
        results = []
        by_members = {key: bits for key, bits in self.sets.items() if key[0] in self.members}
        for attack in {attack for _, attack in by_members if not keeps_clean_images(attack)}:
            sets = [by_members[source, attack] for source in self.members if (source, attack) in by_members]
            if len(sets) == len(self.members):
                # The attacker draws a member with the same probabilities as the defender.
                right = np.stack([self.weights @ bits for bits in sets])
                level = "T0" if EARLY_STOP in options_of(attack) else "T1"
                results.append(AttackerResult(level, base_attack(attack), False, right, self.weights))
        for (source, attack), bits in self.sets.items():
            if source == self.switch:
                level, right = _level(attack), (self.weights @ bits)[None]
                results.append(AttackerResult(level, attack, level != SAMPLED, right, np.ones(1)))
        minimum = (1 - expected_error(self.errors, self.weights))[None]
        return [
            *sorted(results, key=lambda result: (result.level, result.attack)),
            AttackerResult(MINIMUM, "", True, minimum, np.ones(1)),
        ]

    def member(self, index: int) -> np.ndarray:
        """Return 1.0 where a member is right on all crafted sets, (images,)."""
        right: np.ndarray = 1 - self.errors[:, index].max(0)
        return right


def switches(evidence: Evidence) -> Iterator[tuple[Row, SwitchBits]]:
    """Yield the sets of every switch of the request, by threat and seed."""
    for row in evidence.manifest.rows:
        if bits := SwitchBits.of(evidence, row):
            yield row, bits


def _level(attack: str) -> str:
    """Return the level of an attack on the switch itself."""
    if attack_family(attack) == AUTOATTACK and "sampled=true" in options_of(attack):
        return SAMPLED
    return LEVELS.get(attack_family(attack), "other")


def crafted_sets(evidence: Evidence, model: str, threat: str, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """Return every set of images crafted for the switch or a member and judged by all members.

    They are (source, attack) -> bits (members, images). The clean images, ('', 'clean'), are one of them.
    """
    members = [member for member, _ in evidence.members(model)]
    crafted = {
        (source, attack)
        for source, _, attack, its_threat, its_seed in evidence.records
        if source in (*members, model) and its_threat == threat and its_seed == seed
    }
    sets = {}
    for source, attack in [("", CLEAN), *sorted(crafted)]:
        bits = [evidence.bits(source, member, attack, threat, seed) for member in members]
        if all(one is not None for one in bits):
            sets[(source, attack)] = np.stack([one for one in bits if one is not None])
    return sets


def expected_error(errors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the largest expected error over all sets, (images,); errors: (sets, members, images)."""
    largest: np.ndarray = np.einsum("m,smi->si", weights, errors).max(0)
    return largest


def bounds(errors: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return the (lower, upper) bound of the accuracy of a switch.

    With w the weights and e the members' errors over all sets, max_i w_i e_i <= e <= sum_i w_i e_i holds for
    each image; averaged, the accuracies are 1 - mean(sum_i w_i e_i) and 1 - mean(max_i w_i e_i).
    errors: (sets, members, images).
    """
    weighted = weights[:, None] * errors.max(0)
    return 1 - float(weighted.sum(0).mean()), 1 - float(weighted.max(0).mean())
