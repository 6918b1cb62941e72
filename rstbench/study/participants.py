"""Who takes part: models given by reference, tickets drawn, networks trained, switches of tickets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data import Images
from ..errors import ModelFault
from ..models.sources.native import checkpoint_model, ticket_model
from ..models.wrapper import EvalModel, load_reference, with_unique_names, wrap_switch
from ..progress import Progress
from ..tickets.ticket import Ticket
from ..training.costs import FILE, read_costs
from .build import Builder, Network
from .jobs import Job
from .parallel import BuildResult
from .plan import BEST, EQUAL, Study
from .switch_weights import fitted


@dataclass(frozen=True)
class Participants:
    """Who takes part under one seed. groups: entries that are judged by one another; faults: what
    could not be made."""

    seed: int
    entries: tuple[EvalModel, ...]
    groups: tuple[tuple[EvalModel, ...], ...] = ()
    faults: tuple[ModelFault, ...] = ()

    def group_of(self, entry: EvalModel) -> tuple[EvalModel, ...]:
        """The entry itself first, then those that judge its images too."""
        mine = [group for group in self.groups if any(e.digest == entry.digest for e in group)]
        judges = {e.digest: e for e in (entry, *(e for group in mine for e in group))}
        return tuple(judges.values())


def given_models(study: Study, images: Images | None = None, *, download: bool = False) -> list[EvalModel]:
    """The models that a study names, loaded to be asked about these images; fetched where that is allowed."""
    found = []
    for name, reference in study.models:
        entry = load_reference(reference, images, download=download)
        card = replace(entry.info, name=name) if name else entry.info
        found.append((reference, replace(entry, info=card)))
    return with_unique_names(found)


def make_field(
    study: Study,
    seed: int,
    jobs: Sequence[Job],
    given: Sequence[EvalModel],
    done: BuildResult,
    shop: Builder,
    out: Path,
) -> Participants:
    """Who takes part under one seed: what these jobs made, switches of it, and the models given.

    With several seeds the names carry theirs. What is fitted to a switch is kept under `out`.
    """
    progress = shop.progress
    mark = f"-seed{seed}" if len(study.seeds) > 1 else ""
    crossed, entries, groups = (
        study.transfer or study.switch,
        list[EvalModel](),
        list[tuple[EvalModel, ...]](),
    )
    for name, together in _families(jobs):
        family = [_entry(done.made[job.path], job, mark) for job in together if job.path in done.made]
        entries += family
        if together[0].remaining and len(family) > 1 and crossed:
            groups.append(tuple(family))
            if study.switch and len(family) == len(together):
                whole = wrap_switch(family, f"switch-{name}{mark}")
                whole = replace(whole, info=replace(whole.info, family=f"switch-{name}"))
                entries += [_weighted(whole, text, shop, out) for text in study.switch_weights]
    given = [fitted(entry, shop, out) if entry.unfitted else entry for entry in given]
    if seed == study.seeds[0]:
        tell_notes(given, progress)
    for entry in given:
        if entry.members:
            groups.append(entry.members)
    if study.transfer and not study.draws:
        groups.append(tuple(entry for entry in given if not entry.members))
    faults = tuple(done.faults[job.path] for job in jobs if job.path in done.faults)
    return Participants(seed, apart([*entries, *given], progress), tuple(groups), faults)


def tell_notes(entries: Iterable[EvalModel], progress: Progress) -> None:
    """What was assumed about the models, and of which nothing is resumed."""
    for entry in entries:
        for note in entry.notes:
            progress.note(f"{entry.info.name}: {note}")
        if not entry.resumable and not entry.fault:
            progress.note(
                f"{entry.info.name}: the code that defines it cannot be read, so nothing of it is resumed"
            )


def _weighted(equal: EvalModel, weights: str, shop: Builder, out: Path) -> EvalModel:
    """The switch of equal probabilities as it is, or with those that suit it best."""
    if weights == EQUAL:
        return equal
    card = replace(equal.info, name=f"{equal.info.name}-{BEST}", family=f"{equal.info.family}-{BEST}")
    return fitted(replace(equal, info=card), shop, out)


def _families(jobs: Sequence[Job]) -> list[tuple[str, list[Job]]]:
    """The jobs of each table, in the study's order: tickets, then trained networks."""
    found: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: not job.remaining):
        found.setdefault(job.family, []).append(job)
    return list(found.items())


def _entry(made: Network, job: Job, mark: str) -> EvalModel:
    wrap = ticket_model if isinstance(made, Ticket) else checkpoint_model
    entry = wrap(made, job.name + mark)  # type: ignore[arg-type]
    card = replace(entry.info, family=job.family, ratio=job.ratio)
    cost = read_costs(job.path.parent / FILE).get(job.path.stem)
    if cost and not cost.resumed:
        card = replace(card, made_seconds=cost.seconds, made_mib=cost.peak_mib)
    return replace(entry, info=card)


def apart(entries: Iterable[EvalModel], progress: Progress) -> tuple[EvalModel, ...]:
    """The entries, each model once."""
    found: dict[str, EvalModel] = {}
    for entry in entries:
        first = found.setdefault(entry.digest, entry)
        if first is not entry:
            progress.note(f"{entry.info.name} is the same model as {first.info.name}: it is listed once")
    return tuple(found.values())
