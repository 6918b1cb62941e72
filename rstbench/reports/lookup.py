"""Look up the evidence of one request by question instead of by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..evidence.manifest import Manifest, Row
from ..evidence.store import Store
from ..evidence.trial import (
    ATTACK,
    CERTIFICATE,
    CLEAN,
    EXACT,
    FAST,
    ModelInfo,
    ShardResult,
    TrialResult,
    attack_family,
)

AUTOATTACK = "autoattack"
EARLY_STOP = "early_stop=true"
Key = tuple[str, str, str, str, int]  # source, target, attack, threat, seed


@dataclass(frozen=True)
class Evidence:
    """Hold a manifest, its results that cover all images, and the files with each result by its key.

    proofs: results of certificates, by model, certificate and threat.
    """

    manifest: Manifest
    records: dict[Key, TrialResult]
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    proofs: Mapping[tuple[str, str, str], TrialResult] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Evidence:
        """Read a folder that `evaluate` wrote. Raises BadFile."""
        manifest, store = Manifest.load(root), Store(root)
        read = [record for key in manifest.keys if (record := store.read(key))]
        complete = [record for record in read if record.covers(manifest.images)]
        records = _by_question([record for record in complete if record.trial.kind == ATTACK])
        proofs = {
            (record.trial.target, record.trial.attack, record.trial.threat): record
            for record in complete
            if record.trial.kind == CERTIFICATE
        }
        both = (*records.values(), *proofs.values())
        places = {record.trial.key: store.places(record.trial.key) for record in both}
        return cls(manifest, records, places, proofs)

    @property
    def unanswered(self) -> int:
        """Return how many of the questions have no complete answer: of a run that goes on, or of a fault."""
        answered = {record.trial.key for record in (*self.records.values(), *self.proofs.values())}
        return len({*self.manifest.keys} - answered)

    def info(self, digest: str) -> ModelInfo:
        return self.manifest.models[digest]

    def question(self, row: Row) -> dict[str, Any]:
        """Return what a row was asked, beside its model, as cells of a table."""
        return {"threat": row.threat, "data": self.manifest.run["data"], "seed": row.seed}

    def members(self, digest: str) -> list[tuple[str, float]]:
        """Return (digest, probability) of the members of a switch; a plain model is its own only member."""
        info = self.info(digest)
        return list(zip(info.members, info.weights, strict=True)) if info.members else [(digest, 1.0)]

    def record(self, source: str, target: str, attack: str, threat: str, seed: int) -> TrialResult | None:
        """Return the complete answer; clean images have one whatever the source, the threat and the seed."""
        if attack == CLEAN:
            source, threat, seed = target, "", 0
        return self.records.get((source, target, attack, threat, seed))

    def bits(self, source: str, target: str, attack: str, threat: str, seed: int) -> np.ndarray | None:
        """Return 1.0 where `target` was right, shape (images,), or None where there is no complete answer."""
        record = self.record(source, target, attack, threat, seed)
        if record is None:
            return None
        return np.frombuffer(record.bits[: self.manifest.images].encode(), dtype=np.uint8) - 48.0

    def robust(self, model: str, attack: str, threat: str, seed: int) -> np.ndarray | None:
        """Return the probability that a model is right on each image crafted against it, shape (images,)."""
        total = np.zeros(self.manifest.images)
        for member, weight in self.members(model):
            bits = self.bits(model, member, attack, threat, seed)
            if bits is None:
                return None
            total += weight * bits
        return total

    def shards(self, model: str, attack: str, threat: str, seed: int) -> Sequence[ShardResult]:
        """Return the shards of a model's own trial.

        Of a switch they are those judged by its first member, which carry the cost of crafting once.
        """
        record = self.record(model, self.members(model)[0][0], attack, threat, seed)
        return tuple(record.within(self.manifest.images)) if record else ()

    def all_flags(self, model: str, attack: str, threat: str, seed: int) -> set[str]:
        """Return the flags of every judge of a model's own trial."""
        records = [self.record(model, member, attack, threat, seed) for member, _ in self.members(model)]
        shards = [shard for record in records if record for shard in record.within(self.manifest.images)]
        return {flag for shard in shards for flag in shard.flags}


def _by_question(records: Iterable[TrialResult]) -> dict[Key, TrialResult]:
    """Return one record for each question, whatever its crafting.

    A merged request may hold exact and fast answers. The exact one is taken, which a fast request takes too;
    but where fast images were judged by all that judged the exact ones, and by more, all their judges are
    taken together: a switch is bounded over images that all its members judged.
    """
    craftings: dict[tuple[str, str, str, int], dict[str, dict[str, TrialResult]]] = {}
    for record in records:
        trial = record.trial
        kinds = craftings.setdefault((trial.source, trial.attack, trial.threat, trial.seed), {})
        kinds.setdefault(trial.crafting, {})[trial.target] = record
    chosen: dict[Key, TrialResult] = {}
    for (source, attack, threat, seed), kinds in craftings.items():
        exact, fast = kinds.get(EXACT, {}), kinds.get(FAST, {})
        judges = exact | fast if exact.keys() < fast.keys() else fast | exact
        chosen |= {(source, target, attack, threat, seed): record for target, record in judges.items()}
    return chosen


def base_attack(text: str) -> str:
    """Return the attack without its early stop: 'pgd:steps=50' of 'pgd:early_stop=true,steps=50'."""
    others = ",".join(option for option in options_of(text) if option != EARLY_STOP)
    return ":".join(filter(None, (attack_family(text), others)))


def options_of(attack: str) -> list[str]:
    """Return the options of an attack: ['early_stop=true', 'steps=50']."""
    return list(filter(None, attack.partition(":")[2].split(",")))
