"""A study from start to end: make, ask, write. The same call again continues where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..attacks import parse_attack
from ..data import download as fetching
from ..data import load, parse
from ..errors import BadRequest, ModelFault
from ..evaluation.adversarials import AdversarialWriter, ExampleWriter
from ..evaluation.evaluate import EvalSetting, pick_batch, pick_device, run_questions, whole_shards
from ..evaluation.executors import Local, Processes
from ..evidence import run_log
from ..evidence.examples import Examples
from ..evidence.store import Store
from ..models.wrapper import EvalModel
from ..progress import Progress, Silent
from ..reports.lookup import Evidence
from ..reports.report import write_report
from ..reports.tables import write
from ..threat import Threat
from .build import Builder, write_history
from .jobs import Job, jobs_of
from .parallel import make_all
from .participants import given_models, make_field
from .plan import Study, StudyAttack
from .questions import added, as_request, questions_of, refuse_other_kind


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: the common options of the command line."""

    out: Path
    device: str = "auto"
    batch: str = "auto"
    limit: int = 0  # images; 0 means those of the study
    root: Path = Path(".")
    save_adversarials: bool = False
    download: bool = False
    workers: int = 1  # networks made, and shards attacked, at once
    report: bool = True  # figures and a page beside the tables


@dataclass(frozen=True)
class Outcome:
    """The tables by name, and what failed."""

    tables: Mapping[str, pd.DataFrame]
    faults: Sequence[ModelFault]


def run_study(
    study: Study, options: Options, progress: Progress | None = None, given: Sequence[EvalModel] | None = None
) -> Outcome:
    """Makes what is missing, asks what is unanswered, writes the CSV files and `study.toml`.

    given: the models that the study names, where they are loaded already.
    Raises BadRequest before any work; what fails later is in the outcome.
    """
    progress = progress or Silent()
    study = canonical_study(study)
    teams = [jobs_of(study, seed, options.out) for seed in study.seeds]
    jobs = [job for team in teams for job in team]
    if options.download:
        fetching([study.data, *(job.recipe.data for job in jobs)], options.root)
    setting, images = settle(study, options)
    given = given_models(study, setting.data, download=options.download) if given is None else given
    workshop = Builder(options.root, setting.device, progress)
    for job in teams[0]:
        _check(job, setting, workshop)
    workshop.tell(setting.data.first(images))
    store = Store(options.out)
    with store.lock():
        refuse_other_kind(options.out, rows=True)
        Examples.read(options.out)  # a damaged file is found before any work
        run_log.begin(options.out, [job.path for job in jobs])
        done = make_all(
            jobs, workshop, options.workers, lambda fault: run_log.add(options.out, "fault", fault)
        )
        if done.made:
            named = [(job.label, done.made[job.path]) for job in jobs if job.path in done.made]
            write_history(options.out / "tickets", named)
        fields = [
            make_field(study, seed, team, given, done, workshop, options.out / "switches")
            for seed, team in zip(study.seeds, teams, strict=True)
        ]
        questions = [question for field in fields for question in questions_of(study, field)]
        for text in dict.fromkeys(filter(None, (added(study, field) for field in fields))):
            progress.note(text)
        request = as_request(study, setting, images, fields, questions)
        request.save(options.out)
        run_log.add(options.out, "asking")
        keeper = AdversarialWriter(options.out) if options.save_adversarials else None
        examples = ExampleWriter(options.out, request, setting.data)
        faults = [fault for field in fields for fault in field.faults]
        faults += run_questions(
            questions,
            setting,
            store,
            progress,
            keep=[kept.keep for kept in (keeper, examples) if kept],
            has=keeper.has if keeper else lambda trial, start: True,
        )
        if faults:
            request = replace(request, failures=tuple(str(fault) for fault in faults))
            request.save(options.out)
        examples.collect()
        if keeper:
            keeper.collect(request, setting.data, setting.batch)
        tables = finish(options, progress)
    return Outcome(tables, faults)


def finish(options: Options, progress: Progress) -> dict[str, pd.DataFrame]:
    """Writes what is seen of the evidence, as the end of a run: the tables, and the figures and the page."""
    evidence = Evidence.read(options.out)
    tables = write(evidence, options.out)
    if options.report:
        for note in write_report(evidence, tables, options.out):
            progress.note(note)
    run_log.add(options.out, "ended")
    return tables


def canonical_study(study: Study) -> Study:
    """The study with every threat and attack in its canonical text. Raises BadRequest."""
    threats = {text: str(Threat.parse(text)) for text in study.threats}
    attacks = [
        replace(a, attack=parse_attack(a.attack)[0], threat=threats.get(a.threat, "")) for a in study.attacks
    ]
    return replace(
        study, threats=tuple(dict.fromkeys(threats.values())), attacks=tuple(dict.fromkeys(attacks))
    )


def settle(study: Study, options: Options) -> tuple[EvalSetting, int]:
    """(what all questions share, how many images the tables show).

    Whole shards are asked about, so that more images add shards and change none; the tables show the
    number that the study or the data name, and with a limit all of them.
    """
    device = pick_device(options.device)
    source, name, split, count = parse(study.data)
    data = load(":".join(filter(None, (source, name, split))), options.root)
    wanted = study.images or count or len(data)
    if wanted > len(data):
        raise BadRequest(f"{data.name} has {len(data)} images, {wanted} are asked for")
    batch = pick_batch(options.batch, device)
    whole = whole_shards(options.limit or wanted, batch, len(data))
    executor = Processes(options.workers) if options.workers > 1 else Local()
    return EvalSetting(data.first(whole), batch, device, executor), whole if options.limit else wanted


def _check(job: Job, setting: EvalSetting, shop: Builder) -> None:
    """Raises BadRequest for what could fail only after the work has begun."""
    shop.check(job)
    images = shop.images(job.recipe.data)[0]
    if images.shape != setting.data.shape:
        raise BadRequest(
            f"{job.name} learns from images {images.shape}, {setting.data.name} has {setting.data.shape}"
        )


def adhoc(
    models: Sequence[str],
    attacks: Sequence[str],
    threats: Sequence[str],
    data: str | None,
    seed: int,
    root: Path,
    *,
    download: bool = False,
) -> tuple[Study, list[EvalModel]]:
    """A study of models given by reference, and those models; data and threats that are not given are
    those of their recipes.

    Raises BadRequest where the recipes are silent or disagree.
    """
    named = tuple(("", text) for text in models)
    asked = tuple(StudyAttack(attack) for attack in attacks) or Study.attacks
    fetching([data] if data and download else [], root)
    study = Study("adhoc", data or "", tuple(threats), asked, seeds=(seed,), models=named)
    entries = given_models(study, load(study.data, root) if data else None, download=download)
    recipes = [entry.recipe for entry in entries if entry.recipe]
    if not threats:
        study = replace(study, threats=(_common("--threat", {recipe.threat for recipe in recipes}),))
    if not data:
        sources = {":".join(filter(None, parse(recipe.data)[:2])) for recipe in recipes}
        study = replace(study, data=_common("--data", sources) + ":test")
    return study, entries


def _common(option: str, found: set[str]) -> str:
    if len(found) != 1:
        why = f"the models' recipes say {' and '.join(sorted(found))}" if found else "no model has a recipe"
        raise BadRequest(f"{option} is not given, and {why}; add {option}")
    return found.pop()
