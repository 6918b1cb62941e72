"""A study: what to make and what to ask, one frozen noun. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import BadRequest
from ..training.recipe import Recipe, recipe_for

OF_NETWORK = ("network", "width", "norm", "last_norm", "normalize")
_OF_RECIPE = {f.name for f in fields(Recipe)} - {"origin", "weights", "seed"}
_OF_MASKS = {"method", "pattern", "allocation", "dense", "floor", "kept_count", "scale"}
DRAW = _OF_RECIPE | {"name", "remaining", "from", "no_weights"}
TRAIN = (_OF_RECIPE - _OF_MASKS) | {"name", "from", "size_of", "weights"}
COMMON = _OF_RECIPE | {"remaining"}
EQUAL, BEST = "equal", "best"  # probabilities of the members of a switch


@dataclass(frozen=True)
class StudyAttack:
    """An attack, at every threat of the study or at one only."""

    attack: str
    threat: str = ""


@dataclass(frozen=True)
class Make:
    """One [[draw]] or [[train]] table. start: what it begins from, size_of: the ticket whose number of
    weights a dense network shall have; each a reference, or a name inside the study, or ''. no_weights:
    tickets never store their random weights, only the seed."""

    name: str
    settings: Mapping[str, Any]
    remaining: tuple[str, ...] = ()
    start: str = ""
    size_of: str = ""
    no_weights: bool = False

    def recipe(self, seed: int) -> Recipe:
        return recipe_for({**self.settings, "seed": seed})


@dataclass(frozen=True)
class Study:
    """images: how many of `data` are asked about; 0 means all. switch_weights: 'equal', 'best' or both."""

    name: str
    data: str
    threats: tuple[str, ...]
    attacks: tuple[StudyAttack, ...] = (StudyAttack("pgd"), StudyAttack("autoattack"))
    images: int = 0
    seeds: tuple[int, ...] = (0,)
    transfer: bool = False
    switch: bool = False
    switch_weights: tuple[str, ...] = (EQUAL,)
    draws: tuple[Make, ...] = ()
    trains: tuple[Make, ...] = ()
    models: tuple[tuple[str, str], ...] = ()  # (name or '', reference)

    def attacks_at(self, threat: str) -> tuple[str, ...]:
        """The attacks asked at one threat, in the study's order."""
        return tuple(asked.attack for asked in self.attacks if asked.threat in ("", threat))

    def as_toml(self) -> dict[str, Any]:
        """The study as plain values, every setting resolved."""
        plain: dict[str, Any] = {
            "name": self.name,
            "data": self.data,
            "threats": list(self.threats),
            "attacks": [
                {"attack": a.attack, "threat": a.threat} if a.threat else a.attack for a in self.attacks
            ],
            "images": self.images,
            "seeds": list(self.seeds),
            "transfer": self.transfer,
            "switch": self.switch,
            "switch-weights": list(self.switch_weights),
        }
        for table, makes in (("draw", self.draws), ("train", self.trains)):
            if makes:
                plain[table] = [_make_as_toml(make, table) for make in makes]
        if self.models:
            plain["model"] = [
                {"name": name, "ref": ref} if name else {"ref": ref} for name, ref in self.models
            ]
        return plain


def narrowed(study: Study, attacks: Iterable[str], threats: Iterable[str], data: str | None) -> Study:
    """The study with other attacks, threats or data in place of its own, where any are given."""
    if data:
        study = replace(study, data=data, images=0)
    if threats:
        study = replace(study, threats=tuple(threats))
        study = replace(study, attacks=tuple(StudyAttack(asked.attack) for asked in study.attacks))
    if attacks:
        study = replace(study, attacks=tuple(StudyAttack(attack) for attack in attacks))
    return study


def refuse_mixed(settings: Mapping[str, Any], start: str, size_of: str, where: str) -> None:
    """Raises BadRequest for settings of a training that do not go together."""
    if start and size_of:
        raise BadRequest(f"{where}from and size-of exclude each other: one keeps the mask, one the size only")
    if settings.get("weights") and not start:
        raise BadRequest(f"{where}weights = {settings['weights']!r} goes with a ticket to start from")
    refuse_fixed(settings if start or size_of else {}, where, OF_NETWORK)
    refuse_fixed(settings if start else {}, where)


def refuse_fixed(
    settings: Mapping[str, Any], where: str, keys: tuple[str, ...] = (*OF_NETWORK, "init")
) -> None:
    """Raises BadRequest for settings that what is begun from has fixed already."""
    for key in keys:
        if key in settings:
            raise BadRequest(f"{where}{key} is that of the network it begins from; leave it out")


def names_a_file(start: str) -> bool:
    """Whether a drawing begins from something that knows its own network: a checkpoint of this tool, or
    a name inside the study."""
    return bool(start) and (":" not in start or start.startswith("checkpoint:"))


def _make_as_toml(make: Make, table: str) -> dict[str, Any]:
    known = DRAW if table == "draw" else TRAIN
    if make.size_of or names_a_file(make.start) or (make.start and table == "train"):
        known = known - {*OF_NETWORK} - (set() if make.size_of else {"init"})
    settings = {key: value for key, value in vars(make.recipe(0)).items() if key in known and value != ""}
    plain = {"name": make.name, **{key.replace("_", "-"): value for key, value in settings.items()}}
    if table == "draw":
        plain["remaining"] = list(make.remaining)
    begun = {"from": make.start, "size-of": make.size_of, "no-weights": make.no_weights}
    return plain | {key: value for key, value in begun.items() if value}
