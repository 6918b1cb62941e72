"""The jobs of a study: tickets to draw and networks to train, each after what it begins from. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import BadRequest, unknown
from ..training.recipe import DrawOptions, Recipe
from .plan import OF_NETWORK, NetworkTable, Study

# Settings that a job takes from what it begins from.
INHERITED = (*OF_NETWORK, "init")


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
    options: DrawOptions = field(default_factory=DrawOptions)

    @property
    def label(self) -> str:
        """Return its name with its seed."""
        return f"{self.name}-seed{self.recipe.seed}"

    @property
    def needs(self) -> Path | None:
        """Return the file that must exist before it can be made, None where there is none."""
        source, _, file = (self.start or self.size_of).partition(":")
        return Path(file) if source in ("ticket", "checkpoint") else None


def jobs_of(study: Study, seed: int, out: Path) -> list[Job]:
    """Return the jobs under one seed; files are `out/tickets/NAME-seedS.safetensors` and `out/checkpoints/…`.

    A training that begins from a [[draw]] table is one job for each of its ratios. Raises BadRequest for a
    name that no table has, and for tables that begin at one another.
    """
    ratios = {table.name: table.remaining for table in study.draws}
    jobs: dict[str, Job] = {}
    for table in (*study.draws, *study.trains):
        for suffix, remaining in _members(table, ratios):
            if table.name + suffix in jobs:
                raise BadRequest(f"two things would be named {table.name + suffix!r}; rename a table")
            folder = "tickets" if table.remaining else "checkpoints"
            jobs[table.name + suffix] = Job(
                name=table.name + suffix,
                path=out / folder / f"{table.name}{suffix}-seed{seed}.safetensors",
                recipe=table.recipe(seed),
                remaining=remaining,
                start=_reference(table, table.start, suffix),
                size_of=_reference(table, table.size_of, suffix),
                family=table.name,
                ratio=suffix.removeprefix("-"),
                options=table.options,
            )
    return [_resolved(jobs, job) for job in _ordered(jobs, list(ratios))]


def families(jobs: Sequence[Job]) -> list[tuple[str, list[Job]]]:
    """Return the jobs of each table, in the study's order: tickets, then trained networks."""
    by_name: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: not job.remaining):
        by_name.setdefault(job.family, []).append(job)
    return list(by_name.items())


def _members(table: NetworkTable, ratios: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return what follows the name, and the kept fraction, of each job of a table."""
    if table.remaining:
        return [(f"-{ratio}", ratio) for ratio in table.remaining]
    return [(f"-{ratio}", "") for ratio in ratios.get(table.start or table.size_of, ())] or [("", "")]


def _reference(table: NetworkTable, text: str, suffix: str) -> str:
    """Return a name inside the study with the suffix of its member, a reference to a file as it is."""
    return text if table.remaining or not text or ":" in text else text + suffix


def _ordered(jobs: dict[str, Job], ratios: list[str]) -> Iterator[Job]:
    """Yield each job after the one it begins from."""
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


def _resolved(jobs: dict[str, Job], job: Job) -> Job:
    """Return the job with files in place of names, and with the network of what it begins from."""
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
