"""Expand a study into questions, and list them in the manifest of the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from ..attacks import AttackSpec
from ..errors import BadRequest
from ..evaluation.evaluate import EvalSetting, Question, clean
from ..evaluation.shard import device_name, versions
from ..evidence.manifest import MANIFEST_FILE, Manifest, Row
from ..evidence.trial import Trial
from ..models.wrapper import EvalModel
from ..threat import Threat
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
        for model in participants.models
        for threat in study.threats
        for attack in attacks_on(model, study, threat)
        if attack not in study.attacks_at(threat)
    }
    names = ", ".join(added)
    return f"autoattack sees only the mean of a switch; asked too are: {names}" if added else ""


def questions_of(study: Study, participants: Participants) -> list[Question]:
    """Return all questions under one seed, cheap ones first."""
    seed, judges_of = participants.seed, participants.judges_of
    single = [model for model in participants.models if not model.members]
    switches = [model for model in participants.models if model.members]
    members = {member.digest: member for group in participants.groups for member in group}
    listed = {model.digest for model in single}
    unlisted = [member for member in members.values() if member.digest not in listed]
    questions = [clean(model) for model in (*single, *unlisted)]
    for threat in study.threats:
        for attack in study.attacks_at(threat):
            # A member's images are judged by its group, whatever crafted them: the bounds of a switch are
            # taken over all of them.
            questions += [Question(model, judges_of(model), attack, threat, seed) for model in single]
            if stopped := attack.early_stopped():
                questions += [Question(m, judges_of(m), attack, threat, seed) for m in unlisted]
                questions += [Question(m, judges_of(m), stopped, threat, seed) for m in members.values()]
        for switch in switches:
            attacks = attacks_on(switch, study, threat)
            questions += [Question(switch, switch.members, attack, threat, seed) for attack in attacks]
    return sorted(questions, key=lambda q: q.attack is not None and q.attack.family == "autoattack")


def trials_of(questions: Sequence[Question], setting: EvalSetting) -> list[Trial]:
    """Return the trials of all questions."""
    return [trial for question in questions for trial in question.trials(setting.data, setting.batch)]


def refuse_other_kind(out: Path, *, rows: bool) -> None:
    """Raise BadRequest where a folder holds a transfer matrix and a leaderboard is asked for, or the reverse:
    each would take the other's tables away."""
    if (out / MANIFEST_FILE).exists() and bool(Manifest.load(out).rows) != rows:
        held = "a transfer matrix" if rows else "a leaderboard"
        raise BadRequest(f"{out} holds {held}; choose another --out")


def make_manifest(
    study: Study,
    setting: EvalSetting,
    images: int,
    by_seed: Sequence[Participants],
    questions: Sequence[Question],
    *,
    rows: bool = True,
) -> Manifest:
    """Return what this run asks for; without `rows` there is no leaderboard, only the matrix."""
    cards = {model.digest: model.info for q in questions for model in (q.source, *q.targets)}
    # A model that is a member of a switch too has its own name.
    cards |= {model.digest: model.info for participants in by_seed for model in participants.models}
    return Manifest(
        study=study.as_toml(),
        run={
            "data": setting.data.name,
            "data_digest": setting.data.digest,
            "batch": setting.batch,
            "device": device_name(setting.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        },
        images=images,
        models=cards,
        rows=tuple(
            Row(model.digest, str(threat), participants.seed, attacks)
            for participants in by_seed
            for threat in study.threats
            if study.attacks_at(threat)
            for model in participants.models
            for attacks in [tuple(map(str, attacks_on(model, study, threat)))]
            if rows
        ),
        groups=tuple(dict.fromkeys(tuple(m.digest for m in group) for p in by_seed for group in p.groups)),
        keys=tuple(sorted({trial.key for trial in trials_of(questions, setting)})),
        labels=tuple(setting.data.labels[:images].tolist()),
    )
