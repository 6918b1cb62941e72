"""The verb `transfer`: images crafted against each model, judged by all."""

from __future__ import annotations

from collections.abc import Sequence

from ..attacks import AttackSpec
from ..data import download
from ..errors import BadRequest
from ..evaluation.crafting import settle
from ..evaluation.evaluate import run_tasks
from ..evaluation.task import Task, clean_task
from ..evidence import run_log
from ..evidence.store import Store
from ..evidence.trial import keeps_clean_images
from ..progress import Progress
from ..references import DataReference, Reference
from ..threat import Threat
from .build import report_images
from .part import part_of
from .participants import Participants, report_notes, without_duplicates
from .questions import make_manifest, refuse_other_kind, trials_of
from .run import Options, Outcome, evaluation_setting, study_of_models, write_outcome


def run_transfer(
    models: Sequence[Reference],
    attacks: Sequence[AttackSpec],
    threats: Sequence[Threat],
    data: DataReference | None,
    seed: int,
    early_stop: bool,
    options: Options,
    progress: Progress,
) -> Outcome:
    """Craft n times and judge n² times for n models.

    Raises BadRequest for AutoAttack, whose images are not maximum-loss, and for switches, which are no single
    source.
    """
    study, loaded = study_of_models(models, attacks, threats, data, seed, options)
    if options.download:
        download([study.data], options.root)
    sources = [_source_attack(item.attack, early_stop) for item in study.attacks]
    distinct = without_duplicates(loaded, progress)
    if any(model.members for model in distinct):
        raise BadRequest("a switch is no source of its own; name its members")
    setting, images = evaluation_setting(study, options)
    report_images(setting.data.first(images), progress)
    report_notes(distinct, progress)
    part = part_of(study, {}, distinct, options.only, options.shards)
    others = frozenset(model.digest for model in distinct if not part.asks(model.info.name))
    participants = Participants(seed, distinct, (distinct,), others=others)
    tasks = [clean_task(model) for model in participants.asked]
    tasks += [
        Task(model, participants.judges_of(model), attack, threat, seed)
        for threat in study.threats
        for attack in sources
        for model in participants.asked
    ]
    store = Store(options.out)
    with setting.executor, store.lock():
        refuse_other_kind(options.out, rows=False)
        store.pack()  # a damaged one is found before any work
        tasks = settle(tasks, setting, store)
        run_log.begin(options.out, [])
        make_manifest(study, setting, images, [participants], tasks, part, rows=False).save(options.out)
        run_log.begin_asking(options.out, trials_of(tasks, setting))
        faults = run_tasks(tasks, setting, store, progress, returned=0)
        tables, _ = write_outcome(options, progress)
    return Outcome(tables, faults)


def _source_attack(attack: AttackSpec, early_stop: bool) -> AttackSpec:
    if keeps_clean_images(str(attack)):
        raise BadRequest(
            f"{attack.family} returns the clean image where it fails, so it makes no transfer images; use pgd"
        )
    if not early_stop:
        return attack
    stopped = attack.early_stopped()
    if stopped is None:
        raise BadRequest(f"{str(attack)!r} knows no early stop")
    return stopped
