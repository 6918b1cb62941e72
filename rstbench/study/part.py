"""The models that `--only` names: which networks they need, and in what order a whole study lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import unknown
from ..evidence.part import ALL_SHARDS, MODELS, ONLY, SHARDS, Shards
from ..models.wrapper import EvalModel
from .jobs import Job, families
from .plan import EQUAL, Study


@dataclass(frozen=True)
class Part:
    """Hold what is asked of a study here.

    only: names of the models whose questions are asked, empty for all; models: names of all, in the order of
    the study; shards: of each question.
    """

    only: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    shards: Shards = ALL_SHARDS

    def asks(self, name: str) -> bool:
        """Return whether the questions about a model are asked here."""
        return not self.only or name in self.only

    def as_plain(self) -> dict[str, Any]:
        """Return the keys that tell it in the `run` of a manifest; none of the whole."""
        only = {ONLY: list(self.only), MODELS: list(self.models)} if self.only else {}
        return only | ({SHARDS: [str(self.shards)]} if self.shards.count > 1 else {})


def part_of(
    study: Study,
    jobs: Mapping[int, Sequence[Job]],
    given: Sequence[EvalModel],
    only: Sequence[str],
    shards: Shards,
) -> Part:
    """Return the part of a study that these names stand for.

    A name is that of a model in tables, without its seed that of all its seeds, that of a table of the study
    all models of the table, or the reference of a model. Raises BadRequest for another one.
    """
    meanings: dict[str, tuple[str, ...]] = {}  # of each model, by its name in tables
    for seed, of_seed in jobs.items():
        suffix = seed_suffix(study, seed)
        for name, siblings in families(of_seed):
            meanings |= {job.name + suffix: (job.name, name) for job in siblings}
            if study.switch and siblings[0].remaining and len(siblings) > 1:
                kinds = study.switch_weights
                meanings |= {switch_name(name, suffix, k): (switch_name(name, "", k),) for k in kinds}
    for model in given:
        reference = (model.origin.reference,) if model.origin else ()
        meanings[model.info.name] = reference
    for name in only:
        if not any(name in (own, *others) for own, others in meanings.items()):
            raise unknown(
                "model of this study", name, [*meanings, *(o for os in meanings.values() for o in os)]
            )
    chosen = [own for own, others in meanings.items() if {own, *others} & set(only)]
    return Part(tuple(chosen), tuple(meanings), shards)


def needed_jobs(study: Study, seed: int, jobs: Sequence[Job], part: Part) -> list[Job]:
    """Return the jobs of one seed that a part needs: of its models, of those that judge their images, and of
    what these begin from."""
    needed, suffix = set(), seed_suffix(study, seed)
    for name, siblings in families(jobs):
        asked = [job for job in siblings if part.asks(job.name + suffix)]
        is_judged = bool(siblings[0].remaining) and (study.transfer or study.switch)  # by one another
        if is_judged and (
            asked or any(part.asks(switch_name(name, suffix, k)) for k in study.switch_weights)
        ):
            asked = siblings
        needed |= {job.path for job in asked}
    for job in reversed(jobs):  # each comes after the one it begins from
        if job.path in needed and job.needs:
            needed.add(job.needs)
    return [job for job in jobs if job.path in needed]


def seed_suffix(study: Study, seed: int) -> str:
    """Return what follows the names of models under one seed."""
    return f"-seed{seed}" if len(study.seeds) > 1 else ""


def switch_name(family: str, suffix: str, kind: str) -> str:
    """Return the name of the switch of a table of tickets, with equal or best probabilities."""
    return f"switch-{family}{suffix}" + ("" if kind == EQUAL else f"-{kind}")
