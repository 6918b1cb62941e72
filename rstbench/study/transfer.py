"""The verb `transfer`: images crafted against each model, judged by all."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import download
from ..errors import BadRequest
from ..evaluation.evaluate import Question, clean, run_questions
from ..evidence import run_log
from ..evidence.store import Store
from ..progress import Progress
from ..threat import Threat
from .build import tell_of
from .participants import Participants, apart, tell_notes
from .questions import as_request, early_stopped, refuse_other_kind
from .run import Options, Outcome, adhoc, canonical_study, finish, settle


def run_transfer(
    models: Sequence[str],
    attacks: Sequence[str],
    threats: Sequence[str],
    data: str | None,
    seed: int,
    early_stop: bool,
    options: Options,
    progress: Progress,
) -> Outcome:
    """n models cost n craftings and n² judgements. Raises BadRequest for AutoAttack, whose images are
    not maximum-loss, and for switches, which are no single source."""
    study, loaded = adhoc(models, attacks, threats, data, seed, options.root, download=options.download)
    study = canonical_study(study)
    if options.download:
        download([study.data], options.root)
    asked = [_source_attack(item.attack, early_stop) for item in study.attacks]
    entries = apart(loaded, progress)
    if any(entry.members for entry in entries):
        raise BadRequest("a switch is no source of its own; name its members")
    setting, images = settle(study, options)
    tell_of(setting.data.first(images), progress)
    tell_notes(entries, progress)
    field = Participants(seed, entries, (entries,))
    questions = [clean(entry) for entry in entries]
    questions += [
        Question(entry, field.group_of(entry), attack, Threat.parse(threat), seed)
        for threat in study.threats
        for attack in asked
        for entry in entries
    ]
    store = Store(options.out)
    with store.lock():
        refuse_other_kind(options.out, rows=False)
        run_log.begin(options.out, [])
        as_request(study, setting, images, [field], questions, rows=False).save(options.out)
        run_log.add(options.out, "asking")
        faults = run_questions(questions, setting, store, progress)
        tables = finish(options, progress)
    return Outcome(tables, faults)


def _source_attack(text: str, early_stop: bool) -> str:
    if text.startswith("autoattack"):
        raise BadRequest(
            "autoattack returns the clean image where it fails, so it makes no transfer images; use pgd"
        )
    if not early_stop:
        return text
    stopped = early_stopped(text)
    if stopped is None:
        raise BadRequest(f"{text!r} knows no early stop")
    return stopped
