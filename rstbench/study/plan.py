"""A study: which networks to make, and which attacks to run on which models. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import BadRequest
from ..references import DataReference, Reference
from ..threat import Threat
from ..training.recipe import DrawOptions, Recipe, offered, recipe_for

if TYPE_CHECKING:
    from ..attacks.spec import AttackSpec
    from ..certificates import CertificateSpec

OF_NETWORK = ("network", "width", "norm", "last_norm", "normalize")  # in the order of a `NetworkSpec`
# Keys of the tables of a study, which names its seeds itself.
DRAW = {*offered("draw"), "name", "remaining", "from"} - {"seed"}
TRAIN = {*offered("train"), "name", "from", "size_of"} - {"seed"}
COMMON = (DRAW & {f.name for f in fields(Recipe)}) | {"remaining"}
EQUAL, BEST = "equal", "best"  # probabilities of the members of a switch


@dataclass(frozen=True)
class StudyAttack:
    """An attack, at every threat of the study or at one only."""

    attack: AttackSpec
    threat: Threat | None = None


@dataclass(frozen=True)
class StudyModel:
    """A model given by reference, under a name of its own where it has one."""

    reference: Reference
    name: str = ""


@dataclass(frozen=True)
class NetworkTable:
    """One [[draw]] or [[train]] table of a study: tickets to draw at several ratios, or a network to train.

    start: what it begins from, size_of: the ticket whose number of weights a dense network shall have; each a
    reference, or a name inside the study, or ''.
    """

    name: str
    settings: Mapping[str, Any]
    remaining: tuple[str, ...] = ()
    start: str = ""
    size_of: str = ""
    options: DrawOptions = field(default_factory=DrawOptions)

    def recipe(self, seed: int) -> Recipe:
        return recipe_for({**self.settings, "seed": seed})


@dataclass(frozen=True)
class Study:
    """What one leaderboard is made of.

    images: how many of `data` are attacked, 0 for all; switch_weights: 'equal', 'best' or both; certificates:
    what is proved of every model at the threats that each can treat; curve: those threats, of one norm, whose
    answers tell about one another; left_out: a line on each model that the environment names, and does not
    name here.
    """

    name: str
    data: DataReference
    threats: tuple[Threat, ...]
    attacks: tuple[StudyAttack, ...]
    images: int = 0
    seeds: tuple[int, ...] = (0,)
    transfer: bool = False
    switch: bool = False
    switch_weights: tuple[str, ...] = (EQUAL,)
    draws: tuple[NetworkTable, ...] = ()
    trains: tuple[NetworkTable, ...] = ()
    models: tuple[StudyModel, ...] = ()
    certificates: tuple[CertificateSpec, ...] = ()
    curve: tuple[Threat, ...] = ()
    left_out: tuple[str, ...] = ()

    def attacks_at(self, threat: Threat) -> tuple[AttackSpec, ...]:
        """Return the attacks at one threat, in the study's order."""
        return tuple(item.attack for item in self.attacks if item.threat in (None, threat))

    def certificates_at(self, threat: Threat) -> tuple[CertificateSpec, ...]:
        """Return the certificates that can treat one threat, in the study's order."""
        return tuple(certificate for certificate in self.certificates if not certificate.refusal(threat))

    def as_toml(self) -> dict[str, Any]:
        """Return the study as plain values, every setting resolved."""
        plain: dict[str, Any] = {
            "name": self.name,
            "data": str(self.data),
            "threats": [str(threat) for threat in self.threats],
            "attacks": [
                {"attack": str(a.attack), "threat": str(a.threat)} if a.threat else str(a.attack)
                for a in self.attacks
            ],
            "images": self.images,
            "seeds": list(self.seeds),
            "transfer": self.transfer,
            "switch": self.switch,
            "switch-weights": list(self.switch_weights),
        }
        if self.certificates:
            plain["certificates"] = list(map(str, self.certificates))
        if self.curve:
            plain["curve"] = {"norm": self.curve[0].norm, "eps": [t.eps_text for t in self.curve]}
        for kind, tables in (("draw", self.draws), ("train", self.trains)):
            if tables:
                plain[kind] = [_table_as_toml(table, kind) for table in tables]
        if self.models:
            plain["model"] = [
                ({"name": m.name} if m.name else {}) | {"ref": str(m.reference)} for m in self.models
            ]
        return plain


def override(
    study: Study,
    attacks: Sequence[AttackSpec],
    threats: Sequence[Threat],
    data: DataReference | None,
    certificates: Sequence[CertificateSpec] = (),
) -> Study:
    """Return the study with other attacks, threats, data or certificates in place of its own, where any are
    given."""
    if certificates:
        study = replace(study, certificates=tuple(dict.fromkeys(certificates)))
    if data:
        study = replace(study, data=data, images=0)
    if threats:
        everywhere = dict.fromkeys(StudyAttack(item.attack) for item in study.attacks)
        study = replace(study, threats=tuple(dict.fromkeys(threats)), attacks=tuple(everywhere), curve=())
    if attacks:
        study = replace(study, attacks=tuple(StudyAttack(attack) for attack in dict.fromkeys(attacks)))
    return study


def refuse_mixed(settings: Mapping[str, Any], start: str, size_of: str, where: str) -> None:
    """Raise BadRequest for settings of a training that do not go together."""
    if start and size_of:
        raise BadRequest(f"{where}from and size-of exclude each other: one keeps the mask, one the size only")
    if settings.get("weights") and not start:
        raise BadRequest(f"{where}weights = {settings['weights']!r} goes with a ticket to start from")
    refuse_fixed(settings if start or size_of else {}, where, OF_NETWORK)
    refuse_fixed(settings if start else {}, where)


def refuse_fixed(
    settings: Mapping[str, Any], where: str, keys: tuple[str, ...] = (*OF_NETWORK, "init")
) -> None:
    """Raise BadRequest for settings that are those of the network a job begins from."""
    for key in keys:
        if key in settings:
            raise BadRequest(f"{where}{key} is that of the network it begins from; leave it out")


def names_a_file(start: str) -> bool:
    """Return whether a drawing begins from a checkpoint of this tool or study, which knows its network."""
    return bool(start) and (":" not in start or start.startswith("checkpoint:"))


def _table_as_toml(table: NetworkTable, kind: str) -> dict[str, Any]:
    known = DRAW if kind == "draw" else TRAIN
    if table.size_of or names_a_file(table.start) or (table.start and kind == "train"):
        known = known - {*OF_NETWORK} - (set() if table.size_of else {"init"})
    settings = {key: value for key, value in vars(table.recipe(0)).items() if key in known and value != ""}
    plain = {"name": table.name, **{key.replace("_", "-"): value for key, value in settings.items()}}
    if kind == "draw":
        plain["remaining"] = list(table.remaining)
    origin = {"from": table.start, "size-of": table.size_of, **table.options.as_plain()}
    return plain | {key.replace("_", "-"): value for key, value in origin.items() if value}
