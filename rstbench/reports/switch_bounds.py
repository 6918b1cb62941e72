"""The rungs that a random switch is asked, and the bounds its accuracy lies between.

T0 is the paper's protocol: attacker and defender draw a member independently, and the attack stops
at its first success. T1 is T0 without that stop. The others know the switch: T2 is PGD and APGD on the exact
expectation over its members, T3 AutoAttack on their mean probability, T4 ARC, T5 the greedy joint attack.
`minimum` takes for each image the worst of all crafted sets. Every rung is an exact expectation over the
members that answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..evidence.manifest import Row
from ..evidence.trial import CLEAN
from .lookup import EARLY_STOP, Evidence, base_attack

SAMPLED = "sampled"  # AutoAttack on one random draw a call: no rung, the wrong way
RUNGS = {"pgd": "T2", "apgd": "T2", "autoattack": "T3", "arc": "T4", "joint": "T5"}
MINIMUM = "minimum"


@dataclass(frozen=True)
class Rung:
    """right: probability that the switch is right on each image, (sets, images), one set a source that
    crafts; shares: probability of each source, (sets,)."""

    name: str
    attack: str
    knows: bool
    right: np.ndarray
    shares: np.ndarray

    def robust(self, queries: int = 1) -> np.ndarray:
        """Probability that every one of so many independent draws is right, shape (images,)."""
        found: np.ndarray = self.shares @ self.right**queries
        return found


@dataclass(frozen=True)
class Ladder:
    """All that was crafted for one switch or its members and judged by all of them, at one threat and seed.

    sets: (source, attack) -> bits (members, images); the clean images, ('', 'clean'), are one of them.
    """

    switch: str
    members: tuple[str, ...]
    weights: np.ndarray
    sets: dict[tuple[str, str], np.ndarray]

    @classmethod
    def of(cls, evidence: Evidence, row: Row) -> Ladder | None:
        """The ladder of a row; None where it is no switch or has no answer on clean images."""
        pairs = evidence.members(row.model)
        if not evidence.card(row.model).members:
            return None
        members = tuple(member for member, _ in pairs)
        sets = crafted_sets(evidence, row.model, row.threat, row.seed)
        weights = np.array([weight for _, weight in pairs])
        return cls(row.model, members, weights, sets) if ("", CLEAN) in sets else None

    @property
    def clean(self) -> np.ndarray:
        """Expected accuracy on the clean images, (images,)."""
        found: np.ndarray = self.weights @ self.sets["", CLEAN]
        return found

    @property
    def wrong(self) -> np.ndarray:
        """(sets, members, images)"""
        return 1 - np.stack(list(self.sets.values()))

    def rungs(self) -> list[Rung]:
        """Every rung that was asked, from T0 up, then the minimum of all."""
        found = []
        apart = {key: bits for key, bits in self.sets.items() if key[0] in self.members}
        for attack in {attack for _, attack in apart if not attack.startswith("autoattack")}:
            matrix = [apart[source, attack] for source in self.members if (source, attack) in apart]
            if len(matrix) == len(self.members):
                # The attacker draws a member with the same probabilities as the defender.
                right = np.stack([self.weights @ bits for bits in matrix])
                name = "T0" if EARLY_STOP in attack else "T1"
                found.append(Rung(name, base_attack(attack), False, right, self.weights))
        alone = np.ones(1)
        for (source, attack), bits in self.sets.items():
            if source == self.switch:
                name, right = _rung(attack), (self.weights @ bits)[None]
                found.append(Rung(name, attack, name != SAMPLED, right, alone))
        least = 1 - expected_error(self.wrong, self.weights)
        return [
            *sorted(found, key=lambda rung: (rung.name, rung.attack)),
            Rung(MINIMUM, "", True, least[None], alone),
        ]

    def member(self, place: int) -> np.ndarray:
        """1.0 where a member is right on all crafted sets, (images,)."""
        found: np.ndarray = 1 - self.wrong[:, place].max(0)
        return found


def ladders(evidence: Evidence) -> Iterator[tuple[Row, Ladder]]:
    """The ladder of every switch of the request, by threat and seed."""
    for row in evidence.request.rows:
        ladder = Ladder.of(evidence, row)
        if ladder:
            yield row, ladder


def _rung(attack: str) -> str:
    """The rung of an attack that was made on the switch itself."""
    if "sampled=true" in attack:
        return SAMPLED
    return RUNGS.get(attack.partition(":")[0], "other")


def crafted_sets(evidence: Evidence, model: str, threat: str, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """Every set of images crafted for the switch or a member and judged by all members: (source,
    attack) -> bits (members, images). The clean images, ('', 'clean'), are one of them."""
    members = [member for member, _ in evidence.members(model)]
    asked = {
        (source, attack)
        for source, _, attack, its_threat, its_seed in evidence.records
        if source in (*members, model) and its_threat == threat and its_seed == seed
    }
    sets = {}
    for source, attack in [("", CLEAN), *sorted(asked)]:
        bits = [evidence.bits(source, member, attack, threat, seed) for member in members]
        if all(found is not None for found in bits):
            sets[(source, attack)] = np.stack([found for found in bits if found is not None])
    return sets


def expected_error(wrong: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Per image the largest expected error over all sets; wrong: (sets, members, images)."""
    largest: np.ndarray = np.einsum("m,smi->si", weights, wrong).max(0)
    return largest


def bounds(wrong: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """(lower, upper) bound of the accuracy of a switch: with w the weights and e the members' errors
    over all sets, max_i w_i e_i <= e <= sum_i w_i e_i holds image by image, here averaged.

    Accuracies: 1 - mean(sum_i w_i e_i) and 1 - mean(max_i w_i e_i). wrong: (sets, members, images).
    """
    weighted = weights[:, None] * wrong.max(0)
    return 1 - float(weighted.sum(0).mean()), 1 - float(weighted.max(0).mean())
