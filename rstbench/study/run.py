"""Run a study from start to end: make networks, attack, write tables. The same call again continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from ..attacks import AttackSpec
from ..certificates import CertificateSpec
from ..data import download, load
from ..errors import BadRequest, ModelFault
from ..evaluation.adversarials import AdversarialWriter, ExampleWriter
from ..evaluation.batch import pick_batch, whole_shards
from ..evaluation.crafting import pick_crafting, settle
from ..evaluation.evaluate import EvalSetting, pick_device, run_tasks
from ..evaluation.workers import LOCAL, executor_for
from ..evidence import run_log
from ..evidence.examples import COUNT, Examples
from ..evidence.manifest import MANIFEST_FILE
from ..evidence.part import ALL_SHARDS, Shards
from ..evidence.store import Store
from ..evidence.trial import FAST
from ..models.wrapper import EvalModel
from ..progress import Progress, Silent
from ..references import DataReference, Reference
from ..reports.certified import contradictions
from ..reports.lookup import Evidence
from ..reports.report import write_report
from ..reports.tables import write
from ..threat import Threat
from .build import Builder, write_history
from .jobs import Job, jobs_of
from .live import LiveTables
from .parallel import BuildResult, make_all, soon_made
from .part import Part, needed_jobs, part_of
from .participants import Participants, gather_participants, load_models
from .plan import Study, StudyAttack, StudyModel
from .questions import (
    make_manifest,
    note_on_added_attacks,
    notes_on_certificates,
    refuse_other_kind,
    tasks_of,
    trials_of,
)
from .switch_weights import fit_weights


@dataclass(frozen=True)
class Options:
    """The common options of the command line: how a study is run, as opposed to what is measured."""

    out: Path
    device: str = "auto"
    batch: str = "auto"
    limit: int = 0  # images; 0 means those of the study
    root: Path = Path(".")
    save_adversarials: bool = False
    download: bool = False
    workers: int = 1  # networks made, and shards attacked, at once; `workers.AUTO`: as it pays
    report: bool = True  # figures and a page beside the tables
    crafting: str = FAST  # or exact
    executor: str = LOCAL  # or ray, ray:ADDRESS (see `workers.executor_for`)
    timeout: float = 0.0  # seconds that a shard may take; 0 for any
    only: tuple[str, ...] = ()  # names of models, all by default (see `part.part_of`)
    shards: Shards = ALL_SHARDS  # of each question


@dataclass(frozen=True)
class Outcome:
    """The tables by name, and what failed."""

    tables: Mapping[str, pd.DataFrame]
    faults: Sequence[ModelFault]


def run_study(
    study: Study, options: Options, progress: Progress | None = None, given: Sequence[EvalModel] | None = None
) -> Outcome:
    """Make missing networks, run missing attacks, write the CSV files and `study.toml`.

    given: the models that the study names, where they are loaded already.
    Raises BadRequest before any work; what fails later is in the outcome.
    """
    progress = progress or Silent()
    jobs = {seed: jobs_of(study, seed, options.out) for seed in study.seeds}
    if options.download:
        learnt = [DataReference.parse(job.recipe.data) for of_seed in jobs.values() for job in of_seed]
        download([study.data, *learnt], options.root)
    setting, images = evaluation_setting(study, options)
    if given is None:
        given = load_models(study.models, setting.data, download=options.download)
    for line in study.left_out:
        progress.note(line)
    part = part_of(study, jobs, given, options.only, options.shards)
    several = sum(map(len, jobs.values())) > 1
    jobs = {seed: needed_jobs(study, seed, of_seed, part) for seed, of_seed in jobs.items()}
    builder = Builder(options.root, setting.device, progress)
    for job in {job.name: job for of_seed in reversed(jobs.values()) for job in of_seed}.values():
        _check(job, setting, builder)
    for note in notes_on_certificates(study):
        progress.note(note)
    builder.report_images(setting.data.first(images))
    store = Store(options.out)
    with setting.executor, store.lock():
        refuse_other_kind(options.out, rows=True)
        Examples.read(options.out)  # a damaged file is found before any work
        store.pack()
        paths = [job.path for of_seed in jobs.values() for job in of_seed]
        run_log.begin(options.out, paths)
        run = _Run(study, options, setting, images, builder, store, part, several=several)
        if not (options.out / MANIFEST_FILE).exists() and (soon := soon_made(jobs, builder)):
            run.attack(run.make(soon, ()))  # there are rows to look at while the others are made
            run_log.add(options.out, "making")
        faults = run.attack(run.make(jobs, given), last=True)
        tables, contradicted = write_outcome(options, progress)
    return Outcome(tables, [*faults, *contradicted])


class _Run:
    """Make networks and attack them, in one part or in two."""

    def __init__(
        self,
        study: Study,
        options: Options,
        setting: EvalSetting,
        images: int,
        builder: Builder,
        store: Store,
        part: Part,
        *,
        several: bool,
    ) -> None:
        self.study, self.options, self.setting, self.images = study, options, setting, images
        self.builder, self.store, self.progress, self.part = builder, store, builder.progress, part
        self.built = BuildResult(lambda fault: run_log.add(options.out, "fault", fault), several)
        self.live = LiveTables(options.out, builder.progress, options.report)

    def make(self, jobs: Mapping[int, Sequence[Job]], given: Sequence[EvalModel]) -> list[Participants]:
        """Make the networks of all seeds, and return the models under each."""
        out, all_jobs = self.options.out, [job for of_seed in jobs.values() for job in of_seed]
        make_all(all_jobs, self.builder, self.setting.executor, self.built, self.live.update)
        made = self.built.made
        if made:
            labelled = [(job.label, made[job.path]) for job in all_jobs if job.path in made]
            write_history(out / "tickets", labelled)
        fit = partial(
            fit_weights, builder=self.builder, folder=out / "switches", crafting=self.options.crafting
        )
        return [
            gather_participants(self.study, seed, of_seed, given, self.built, self.progress, fit, self.part)
            for seed, of_seed in jobs.items()
        ]

    def attack(self, by_seed: Sequence[Participants], *, last: bool = False) -> list[ModelFault]:
        """Ask all questions about these models and return what failed; after the `last` ones, join the images
        that are kept."""
        out, study, setting, store = self.options.out, self.study, self.setting, self.store
        adversarials = AdversarialWriter(out) if self.options.save_adversarials else None
        is_kept = adversarials.is_kept if adversarials else lambda trial, start: True
        tasks = [task for participants in by_seed for task in tasks_of(study, participants)]
        tasks = settle(tasks, setting, store, is_kept)
        manifest = make_manifest(study, setting, self.images, by_seed, tasks, self.part)
        manifest.save(out)
        run_log.begin_asking(out, trials_of(tasks, setting))
        if last:
            notes = (note_on_added_attacks(study, participants) for participants in by_seed)
            for note in dict.fromkeys(filter(None, notes)):
                self.progress.note(note)
        examples = ExampleWriter(out, manifest, setting.data)
        faults = [fault for participants in by_seed for fault in participants.faults]
        faults += run_tasks(
            tasks,
            setting,
            store,
            self.progress,
            on_answer=[writer.on_answer for writer in (adversarials, examples) if writer],
            is_kept=is_kept,
            update=self.live.update,
            returned=None if adversarials else COUNT,
        )
        if last:
            if faults:
                manifest = replace(manifest, failures=tuple(str(fault) for fault in faults))
                manifest.save(out)
            examples.collect()
            if adversarials:
                adversarials.collect(manifest, setting.data, setting.batch)
        return faults


def write_outcome(options: Options, progress: Progress) -> tuple[dict[str, pd.DataFrame], list[ModelFault]]:
    """Write the tables from the evidence, with figures and a page where wanted, and log the end. Return the
    tables, and what in the evidence contradicts itself."""
    evidence = Evidence.read(options.out)
    tables = write(evidence, options.out)
    if options.report:
        for note in write_report(evidence, tables, options.out):
            progress.note(note)
    contradicted = [ModelFault(line) for line in contradictions(evidence)]
    for fault in contradicted:
        run_log.add(options.out, "fault", str(fault))
    run_log.add(options.out, "ended")
    return tables, contradicted


def evaluation_setting(study: Study, options: Options) -> tuple[EvalSetting, int]:
    """Return what all tasks share, and how many images the tables show.

    Whole shards are evaluated, so that more images add shards and change none; the tables show the number
    that the study or the data name, and with a limit all of them.
    """
    device = pick_device(options.device)
    data = load(replace(study.data, count=None), options.root)
    wanted = study.images or study.data.count or len(data)
    if wanted > len(data):
        raise BadRequest(f"{data.name} has {len(data)} images, {wanted} are asked for")
    batch = pick_batch(options.batch, device.type)
    complete = whole_shards(options.limit or wanted, batch, len(data))
    crafting = pick_crafting(options.crafting)
    executor = executor_for(options.workers, device, options.timeout, options.executor)
    if options.shards.count > (count := -(-complete // batch)):
        raise BadRequest(
            f"--shards {options.shards}: {complete} images are {count} shards of {batch}, too few for all "
            f"parts; divide by --only, or take a smaller --batch-size"
        )
    if options.shards.count > 1 and options.save_adversarials:
        raise BadRequest("--save-adversarials joins the images of all shards; it does not go with --shards")
    setting = EvalSetting(
        data.first(complete), batch, device, executor, crafting, options.timeout, options.shards
    )
    return setting, complete if options.limit else wanted


def _check(job: Job, setting: EvalSetting, builder: Builder) -> None:
    """Raise BadRequest for what could fail only after the work has begun."""
    builder.check(job)
    images = builder.images(job.recipe.data)[0]
    if images.shape != setting.data.shape:
        raise BadRequest(
            f"{job.name} learns from images {images.shape}, {setting.data.name} has {setting.data.shape}"
        )


def study_of_models(
    models: Sequence[Reference],
    attacks: Sequence[AttackSpec],
    threats: Sequence[Threat],
    data: DataReference | None,
    seed: int,
    options: Options,
    certificates: Sequence[CertificateSpec] = (),
) -> tuple[Study, list[EvalModel]]:
    """Return a study of models given by reference, and those models, loaded.

    Data and threats that are not given are those of the models' recipes. Raises BadRequest where the recipes
    are silent or disagree.
    """
    given = tuple(map(StudyModel, models))
    if data and options.download:
        download([data], options.root)
    loaded = load_models(given, load(data, options.root) if data else None, download=options.download)
    recipes = [model.recipe for model in loaded if model.recipe]
    if not threats:
        threats = [Threat.parse(_only_value("--threat", {recipe.threat for recipe in recipes}))]
    if not data:
        names = {str(DataReference.parse(recipe.data).all_of("")) for recipe in recipes}
        data = DataReference.parse(_only_value("--data", names)).all_of("test")
    once = tuple(StudyAttack(attack) for attack in dict.fromkeys(attacks))
    study = Study("adhoc", data, tuple(dict.fromkeys(threats)), once, seeds=(seed,), models=given)
    return replace(study, certificates=tuple(dict.fromkeys(certificates))), loaded


def _only_value(option: str, values: set[str]) -> str:
    if len(values) != 1:
        why = f"the models' recipes say {' and '.join(sorted(values))}" if values else "no model has a recipe"
        raise BadRequest(f"{option} is not given, and {why}; add {option}")
    return values.pop()
