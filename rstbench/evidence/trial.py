"""Define questions, their identity, and the results that answer them. No torch.

A `Trial` asks: how many images does `target` still get right once `attack`, within `threat`, has
crafted them against `source`? Or, of kind `CERTIFICATE`: on how many images is it proved that nothing within
`threat` changes the class? It is answered shard by shard; a `ShardResult` is the answer for one shard and a
`TrialResult` all of them together.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from .fields import check_fields

TRIAL_VERSION = 1
CLEAN = "clean"
EXACT, FAST = "exact", "fast"
CRAFTINGS = (FAST, EXACT)
ATTACK, CERTIFICATE = "attack", "certificate"
KINDS = (ATTACK, CERTIFICATE)
COUNTEREXAMPLE = "counterexample"  # the stage of a certificate that is an adversarial image


@dataclass(frozen=True)
class ModelInfo:
    """Describe a model for tables. It takes no part in the identity of a result.

    family: what it shares with the same thing at other ratios and seeds, ratio: at which of them, as it
    was written; each '' where there is none. made_seconds, made_mib: wall clock and peak memory of the
    making, where it was measured.
    """

    name: str
    kind: str  # ticket, switch, trained, external
    method: str = ""
    network: str = ""
    remaining: float | None = None
    kept_weights: int | None = None
    total_weights: int | None = None
    flags: tuple[str, ...] = ()
    members: tuple[str, ...] = ()  # digests, for a switch
    weights: tuple[float, ...] = ()  # probabilities of the members, for a switch
    family: str = ""
    ratio: str = ""
    made_seconds: float | None = None
    made_mib: float | None = None

    @classmethod
    def of(cls, plain: dict[str, Any]) -> ModelInfo:
        """Read back what `asdict` wrote as JSON or TOML, without fields that this version does not know.
        Raises ValueError or TypeError."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        # A model of another package may say NaN for what it does not know.
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        check_fields(cls, values)
        info = cls(**{key: value for key, value in values.items() if key in known})
        if info.members and len(info.members) != len(info.weights):
            raise ValueError(f"{len(info.members)} members have {len(info.weights)} weights")
        return info


@dataclass(frozen=True)
class Trial:
    """Ask one question. source, target and data are digests; names and paths are not part of it.

    attack is the canonical text ('pgd', 'pgd:restarts=5', 'clean'), threat that of `Threat` (empty
    for 'clean'), batch the span of one shard, seed the seed of the crafting. crafting: `EXACT`, as 'clean'
    always is, or `FAST`, through a faster copy of the source. kind: `ATTACK`, or `CERTIFICATE`, whose text is
    then in `attack` and whose source is its target.
    """

    source: str
    target: str
    attack: str
    threat: str
    data: str
    batch: int
    seed: int
    version: int = TRIAL_VERSION
    crafting: str = EXACT
    kind: str = ATTACK

    @cached_property
    def key(self) -> str:
        """Return the sha256 of the canonical JSON of the question, 64 hexadecimal digits."""
        return hashlib.sha256(canonical(self.as_plain()).encode()).hexdigest()

    def as_plain(self) -> dict[str, Any]:
        """Return the fields for JSON. `crafting` is left out where it is exact, `kind` where it is an attack,
        so that older keys stay."""
        plain = asdict(self)
        if self.crafting == EXACT:
            del plain["crafting"]
        if self.kind == ATTACK:
            del plain["kind"]
        return plain

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Trial:
        """Read back what `as_plain` returned. Raises ValueError or TypeError."""
        check_fields(cls, plain)
        trial = cls(**plain)
        if trial.crafting not in CRAFTINGS:
            raise ValueError(f"crafting is {' or '.join(CRAFTINGS)}, got {str(trial.crafting)[:20]!r}")
        if trial.kind not in KINDS:
            raise ValueError(f"kind is {' or '.join(KINDS)}, got {str(trial.kind)[:20]!r}")
        return trial


def keeps_clean_images(text: str) -> bool:
    """Return whether an attack gives clean images back where it fails: no maximum-loss images to transfer."""
    return attack_family(text) in ("autoattack", "screen")


def attack_family(text: str) -> str:
    """Return the registered name of an attack, without its options: 'pgd' of 'pgd:steps=50'."""
    return text.partition(":")[0]


def crafting_seed(trial: Trial, start: int) -> int:
    """Return the seed for crafting one shard, below 2**31.

    From the crafting fields only, never from the target, so that adding a judge changes no image.
    """
    crafting = [trial.source, trial.attack, trial.threat, trial.data, trial.batch, trial.seed, start]
    return int.from_bytes(hashlib.sha256(canonical(crafting).encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class ShardResult:
    """Answer for the images [start, start + len(bits)): '1' where the target was still right.

    stages maps a part of the attack to the images it broke, as bits ('apgd-ce': '0100'); only
    where source and target are one. forwards and backwards count images passed through the source. copy: of
    fast crafting, how the source (each member of a switch) was copied, by digest, as `CopyPlan` writes it.
    Of a certificate '1' stands where the class is proved, the stage `COUNTEREXAMPLE` for the images that its
    own ones broke; proof: the radius that was proved (`eps`) and a bound of margins' rounding (`error`).
    rows: how many images passed through the source at once in `crafting`, and through the target in
    `judging`, each only where there was no memory for all.
    """

    start: int
    bits: str
    stages: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    device: str = ""
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    copy: dict[str, dict[str, str]] = field(default_factory=dict)
    proof: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        """Return the fields for JSON, without `copy`, `proof` and `rows` where they are empty."""
        plain = asdict(self)
        for name in ("copy", "proof", "rows"):
            if not plain[name]:
                del plain[name]
        return plain

    @classmethod
    def of(cls, plain: dict[str, Any]) -> ShardResult:
        """Read back what `as_plain` returned. Raises ValueError, KeyError or TypeError."""
        check_fields(cls, plain)
        for bits in (plain["bits"], *plain.get("stages", {}).values()):
            if not bits or set(bits) - {"0", "1"} or len(bits) != len(plain["bits"]):
                raise ValueError(f"bits are one 0 or 1 an image, got {bits[:20]!r}")
        if min(plain["start"], *(plain.get(count, 0) for count in ("forwards", "backwards", "seconds"))) < 0:
            raise ValueError("start, forwards, backwards and seconds are not negative")
        if not all(rows > 0 for rows in plain.get("rows", {}).values()):
            raise ValueError("rows holds numbers of images")
        return cls(**{**plain, "flags": tuple(plain.get("flags", ()))})


@dataclass(frozen=True)
class TrialResult:
    """Hold the answer to a trial so far: its shards by their first image, and its models by digest."""

    trial: Trial
    models: dict[str, ModelInfo]
    data: str  # the data set's name, for the table
    shards: tuple[ShardResult, ...]

    def covers(self, images: int) -> bool:
        """Return whether the shards from image 0 on reach `images` without a gap."""
        return len(self.bits) >= images

    @property
    def bits(self) -> str:
        """Return the bits from image 0 up to the first gap."""
        bits = ""
        for shard in sorted(self.shards, key=lambda shard: shard.start):
            if shard.start != len(bits):
                break
            bits += shard.bits
        return bits

    def within(self, images: int) -> Iterable[ShardResult]:
        """Return the shards among the first `images` images."""
        return (shard for shard in self.shards if shard.start < images)


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
