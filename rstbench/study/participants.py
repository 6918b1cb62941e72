"""Gather the models of a study: given by reference, drawn, trained, and switches of tickets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..data import Images
from ..errors import ModelFault
from ..evidence.costs import COSTS_FILE, read_costs
from ..models.sources.native import checkpoint_model, ticket_model
from ..models.wrapper import EvalModel, load_reference, with_unique_names, wrap_switch
from ..progress import Progress
from ..tickets.ticket import Ticket
from .build import Network
from .jobs import Job, families
from .parallel import BuildResult
from .part import Part, seed_suffix, switch_name
from .plan import EQUAL, Study, StudyModel


@dataclass(frozen=True)
class Participants:
    """Hold the models under one seed.

    groups: models that are judged by one another; faults: of models that could not be made; others: digests
    of models that only judge here, since another machine asks about them.
    """

    seed: int
    models: tuple[EvalModel, ...]
    groups: tuple[tuple[EvalModel, ...], ...] = ()
    faults: tuple[ModelFault, ...] = ()
    others: frozenset[str] = frozenset()

    @property
    def asked(self) -> tuple[EvalModel, ...]:
        """Return the models whose questions are asked here."""
        return tuple(model for model in self.models if model.digest not in self.others)

    def judges_of(self, model: EvalModel) -> tuple[EvalModel, ...]:
        """Return the model itself first, then those that judge its images too."""
        own = [group for group in self.groups if any(member.digest == model.digest for member in group)]
        judges = {judge.digest: judge for judge in (model, *(member for group in own for member in group))}
        return tuple(judges.values())


def load_models(
    models: Sequence[StudyModel], images: Images | None = None, *, download: bool = False
) -> list[EvalModel]:
    """Load the models that a study names, to be evaluated on these images; download them where allowed."""
    loaded = []
    for given in models:
        model = load_reference(given.reference, images, download=download)
        info = replace(model.info, name=given.name or model.info.name)
        loaded.append((str(given.reference), replace(model, info=info)))
    return with_unique_names(loaded)


def gather_participants(
    study: Study,
    seed: int,
    jobs: Sequence[Job],
    given: Sequence[EvalModel],
    built: BuildResult,
    progress: Progress,
    fit: Callable[[EvalModel], EvalModel],
    part: Part,
) -> Participants:
    """Return the models under one seed: what these jobs made, switches of it, and the models given.

    With several seeds the names carry theirs. fit: gives a switch its best weights; jobs: those that `part`
    needs.
    """
    suffix = seed_suffix(study, seed)
    models, groups = list[EvalModel](), list[tuple[EvalModel, ...]]()
    for name, siblings in families(jobs):
        family = [_wrap(built.made[job.path], job, suffix) for job in siblings if job.path in built.made]
        models += family
        if siblings[0].remaining and len(family) > 1 and (study.transfer or study.switch):
            groups.append(tuple(family))
            if study.switch and len(family) == len(siblings):
                switch = wrap_switch(family, switch_name(name, suffix, EQUAL))
                switch = replace(switch, info=replace(switch.info, family=switch_name(name, "", EQUAL)))
                kinds = [k for k in study.switch_weights if part.asks(switch_name(name, suffix, k))]
                models += [_with_weights(switch, kind, fit) for kind in kinds]
    given = [model for model in given if not model.members or part.asks(model.info.name)]
    given = [fit(model) if model.unfitted else model for model in given]
    if seed == study.seeds[0]:
        report_notes(given, progress)
    groups += [model.members for model in given if model.members]
    if study.transfer and not study.draws:
        groups.append(tuple(model for model in given if not model.members))
    faults = tuple(built.faults[job.path] for job in jobs if job.path in built.faults)
    distinct = without_duplicates([*models, *given], progress)
    others = frozenset(model.digest for model in distinct if not part.asks(model.info.name))
    groups = [group for group in groups if any(member.digest not in others for member in group)]
    return Participants(seed, distinct, tuple(groups), faults, others)


def report_notes(models: Iterable[EvalModel], progress: Progress) -> None:
    """Report what was assumed about the models, and which of them cannot be resumed."""
    for model in models:
        for note in model.notes:
            progress.note(f"{model.info.name}: {note}")
        if not model.resumable and not model.fault:
            progress.note(
                f"{model.info.name}: the code that defines it cannot be read, so its results cannot be "
                f"reused after an interruption"
            )


def without_duplicates(models: Iterable[EvalModel], progress: Progress) -> tuple[EvalModel, ...]:
    """Return the models, those of one digest once, and report those left out."""
    by_digest: dict[str, EvalModel] = {}
    for model in models:
        first = by_digest.setdefault(model.digest, model)
        if first is not model:
            progress.note(f"{model.info.name} is the same model as {first.info.name}: it is listed once")
    return tuple(by_digest.values())


def _with_weights(equal: EvalModel, kind: str, fit: Callable[[EvalModel], EvalModel]) -> EvalModel:
    """Return the switch of equal probabilities as it is, or with those that suit it best."""
    if kind == EQUAL:
        return equal
    info = replace(equal.info, name=f"{equal.info.name}-{kind}", family=f"{equal.info.family}-{kind}")
    return fit(replace(equal, info=info))


def _wrap(network: Network, job: Job, suffix: str) -> EvalModel:
    wrap = ticket_model if isinstance(network, Ticket) else checkpoint_model
    model = wrap(network, job.name + suffix)  # type: ignore[arg-type]
    info = replace(model.info, family=job.family, ratio=job.ratio)
    cost = read_costs(job.path.parent / COSTS_FILE).get(job.path.stem)
    if cost and not cost.resumed:
        info = replace(info, made_seconds=cost.seconds, made_mib=cost.peak_mib)
    return replace(model, info=info)
