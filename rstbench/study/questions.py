"""Expand a study into tasks, and list them in the manifest of the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from ..attacks import AttackSpec
from ..errors import BadRequest
from ..evaluation.circumstances import device_name, versions
from ..evaluation.evaluate import EvalSetting
from ..evaluation.task import Task, certificate_task, clean_task
from ..evidence.manifest import MANIFEST_FILE, Manifest, Row
from ..evidence.trial import Trial
from ..models.wrapper import EvalModel
from ..threat import Threat
from .part import Part
from .participants import Participants
from .plan import Study

# Attacks that know the members of a switch, run wherever AutoAttack is: it sees only their mean probability.
LADDER = ("apgd", "apgd:mean=probability", "apgd:mean=logits", "apgd:loss=margin", "arc", "joint")


@cache
def _ladder(norm: str) -> tuple[AttackSpec, ...]:
    return tuple(AttackSpec.parse(text) for text in LADDER if not (norm == "L1" and text == "arc"))


def attacks_on(model: EvalModel, study: Study, threat: Threat) -> tuple[AttackSpec, ...]:
    """Return the attacks on one model at one threat: the study's, and for a switch those of `LADDER`.

    ARC is defined for no L1 ball.
    """
    attacks = study.attacks_at(threat)
    if not model.members or not any(attack.family == "autoattack" for attack in attacks):
        return attacks
    return tuple(dict.fromkeys([*attacks, *_ladder(threat.norm)]))


def note_on_added_attacks(study: Study, participants: Participants) -> str:
    """Return a note that names the attacks which the study does not; '' where there are none."""
    added = {
        str(attack): None
        for model in participants.asked
        for threat in study.threats
        for attack in attacks_on(model, study, threat)
        if attack not in study.attacks_at(threat)
    }
    names = ", ".join(added)
    return f"AutoAttack sees only the mean prediction of a switch; also running: {names}" if added else ""


def notes_on_certificates(study: Study) -> list[str]:
    """Return a note for each threat that a certificate cannot treat.

    Raises BadRequest where it can treat none of them.
    """
    notes = []
    for certificate in study.certificates:
        refusals = [refusal for threat in study.threats if (refusal := certificate.refusal(threat))]
        if len(refusals) == len(study.threats):
            raise BadRequest(refusals[0])
        notes += [f"{refusal}: not asked there" for refusal in refusals]
    return notes


def tasks_of(study: Study, participants: Participants) -> list[Task]:
    """Return all tasks under one seed about the models that are asked, cheap ones first."""
    seed, judges_of = participants.seed, participants.judges_of
    single = [model for model in participants.models if not model.members]
    switches = [model for model in participants.models if model.members]
    members = {member.digest: member for group in participants.groups for member in group}
    listed = {model.digest for model in single}
    unlisted = [member for member in members.values() if member.digest not in listed]
    tasks = [clean_task(model) for model in (*single, *unlisted)]
    for threat in study.threats:
        for attack in study.attacks_at(threat):
            # A member's images are judged by its group, whatever crafted them: the bounds of a switch are
            # taken over all of them.
            tasks += [Task(model, judges_of(model), attack, threat, seed) for model in single]
            if stopped := attack.early_stopped():
                tasks += [Task(m, judges_of(m), attack, threat, seed) for m in unlisted]
                tasks += [Task(m, judges_of(m), stopped, threat, seed) for m in members.values()]
        for switch in switches:
            attacks = attacks_on(switch, study, threat)
            tasks += [Task(switch, switch.members, attack, threat, seed) for attack in attacks]
    tasks += [
        certificate_task(model, certificate, threat)
        for threat in study.threats
        for certificate in study.certificates_at(threat)
        for model in (*single, *unlisted)  # of a switch each member is asked
    ]
    asked = [task for task in tasks if task.source.digest not in participants.others]
    return sorted(asked, key=lambda task: task.attack is not None and task.attack.family == "autoattack")


def trials_of(tasks: Sequence[Task], setting: EvalSetting) -> list[Trial]:
    """Return the trials of all tasks."""
    return [trial for task in tasks for trial in task.trials(setting.data, setting.batch)]


def refuse_other_kind(out: Path, *, rows: bool) -> None:
    """Raise BadRequest where a folder holds a transfer matrix, or without `rows` a leaderboard."""
    if (out / MANIFEST_FILE).exists() and bool(Manifest.load(out).rows) != rows:
        held = "a transfer matrix" if rows else "a leaderboard"
        raise BadRequest(f"{out} holds {held}; choose another --out")


def make_manifest(
    study: Study,
    setting: EvalSetting,
    images: int,
    by_seed: Sequence[Participants],
    tasks: Sequence[Task],
    part: Part,
    *,
    rows: bool = True,
) -> Manifest:
    """Return the manifest of a run; without `rows` there is no leaderboard, only the matrix."""
    infos = {model.digest: model.info for task in tasks for model in (task.source, *task.targets)}
    # A model that is a member of a switch too has its own name.
    infos |= {model.digest: model.info for participants in by_seed for model in participants.asked}
    return Manifest(
        study=study.as_toml(),
        run={
            "data": setting.data.name,
            "data_digest": setting.data.digest,
            "batch": setting.batch,
            "device": device_name(setting.device),
            "threads": torch.get_num_threads(),
            "crafting": setting.crafting,
            "versions": versions(),
            **part.as_plain(),
        },
        images=images,
        models=infos,
        rows=tuple(
            Row(model.digest, str(threat), participants.seed, attacks, certificates)
            for participants in by_seed
            for threat in study.threats
            if study.attacks_at(threat)
            for model in participants.asked
            for attacks in [tuple(map(str, attacks_on(model, study, threat)))]
            for certificates in [tuple(map(str, study.certificates_at(threat)))]
            if rows
        ),
        groups=tuple(dict.fromkeys(tuple(m.digest for m in group) for p in by_seed for group in p.groups)),
        keys=tuple(sorted({trial.key for trial in trials_of(tasks, setting)})),
        labels=tuple(setting.data.labels[:images].tolist()),
    )
