"""What a study makes, thing by thing, in an order in which each finds what it begins from. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BadRequest, unknown
from ..training.recipe import Recipe
from .plan import Make, Study

# Settings that whatever a job begins from has fixed already.
INHERITED = ("network", "width", "norm", "last_norm", "normalize", "init")


@dataclass(frozen=True)
class Job:
    """One ticket to draw or one network to train.

    family: the table it comes from, ratio: at which of its ratios; remaining: of a ticket to draw, '' for a
    training; start: what it begins from, 'checkpoint:FILE' or another model for a drawing, 'ticket:FILE' for
    a training; size_of: 'ticket:FILE' whose number of weights a dense network shall have.
    """

    name: str
    path: Path
    recipe: Recipe
    remaining: str = ""
    start: str = ""
    size_of: str = ""
    family: str = ""
    ratio: str = ""
    store_weights: bool = True

    @property
    def label(self) -> str:
        """Its name with its seed."""
        return f"{self.name}-seed{self.recipe.seed}"

    @property
    def needs(self) -> Path | None:
        """The file that must be there before it can be made."""
        source, _, file = (self.start or self.size_of).partition(":")
        return Path(file) if source in ("ticket", "checkpoint") else None


def jobs_of(study: Study, seed: int, out: Path) -> list[Job]:
    """The jobs under one seed; files are `out/tickets/NAME-seedS.safetensors` and `out/checkpoints/…`.

    A training that begins from a [[draw]] table is one job for each of its ratios. Raises BadRequest for a
    name that no table has, and for tables that begin at one another.
    """
    ratios = {make.name: make.remaining for make in study.draws}
    jobs: dict[str, Job] = {}
    for make in (*study.draws, *study.trains):
        for suffix, remaining in _members(make, ratios):
            if make.name + suffix in jobs:
                raise BadRequest(f"two things would be named {make.name + suffix!r}; rename a table")
            folder = "tickets" if make.remaining else "checkpoints"
            jobs[make.name + suffix] = Job(
                name=make.name + suffix,
                path=out / folder / f"{make.name}{suffix}-seed{seed}.safetensors",
                recipe=make.recipe(seed),
                remaining=remaining,
                start=_reference(make, make.start, suffix),
                size_of=_reference(make, make.size_of, suffix),
                family=make.name,
                ratio=suffix.removeprefix("-"),
                store_weights=not make.no_weights,
            )
    return [_placed(jobs, job) for job in _ordered(jobs, list(ratios))]


def _members(make: Make, ratios: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """(what follows the name, remaining) of each job of a table."""
    if make.remaining:
        return [(f"-{ratio}", ratio) for ratio in make.remaining]
    return [(f"-{ratio}", "") for ratio in ratios.get(make.start or make.size_of, ())] or [("", "")]


def _reference(make: Make, text: str, suffix: str) -> str:
    """A name inside the study with the suffix of its member; references to files as they are."""
    return text if make.remaining or not text or ":" in text else text + suffix


def _ordered(jobs: dict[str, Job], ratios: list[str]) -> Iterator[Job]:
    """Each job after the one it begins from."""
    done: set[str] = set()

    def visit(job: Job, path: tuple[str, ...]) -> Iterator[Job]:
        if job.name in path:
            raise BadRequest(f"these begin at one another: {' <- '.join([*path, job.name])}")
        if job.name in done:
            return
        name = job.start or job.size_of
        if name and ":" not in name:
            wanted = "checkpoint" if job.remaining else "ticket"
            others = [other for other in jobs.values() if bool(other.remaining) != bool(job.remaining)]
            known = {other.name: other for other in others}
            if name not in known:
                names = {*known, *(ratios if wanted == "ticket" else ())}
                raise BadRequest(f"{job.family}: {unknown(f'{wanted} of this study', name, names)}")
            yield from visit(known[name], (*path, job.name))
        done.add(job.name)
        yield job

    for job in jobs.values():
        yield from visit(job, ())


def _placed(jobs: dict[str, Job], job: Job) -> Job:
    """The job with files in place of names, and with the network of what it begins from."""
    name = job.start or job.size_of
    if not name or ":" in name:
        return job
    source = jobs[name]
    while (source.start or source.size_of) in jobs:
        source = jobs[source.start or source.size_of]
    kept = [key for key in INHERITED if key != "init" or job.start]
    recipe = replace(job.recipe, **{key: getattr(source.recipe, key) for key in kept})
    reference = f"{'checkpoint' if job.remaining else 'ticket'}:{jobs[name].path}"
    if job.start:
        return replace(job, recipe=recipe, start=reference)
    return replace(job, recipe=recipe, size_of=reference)
