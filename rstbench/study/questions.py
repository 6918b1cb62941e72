"""What is asked of whom, and the request that remembers it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from ..attacks import canonical_text, parse_attack
from ..errors import BadRequest
from ..evaluation.evaluate import EvalSetting, Question, clean
from ..evaluation.shard import device_name, versions
from ..evidence.manifest import FILE, Manifest, Row
from ..models.wrapper import EvalModel
from ..threat import Threat
from .participants import Participants
from .plan import Study

# Who asks AutoAttack of a switch is asked the attacks too that know its members: AutoAttack itself sees only
# their mean probability.
LADDER = ("apgd", "apgd:mean=probability", "apgd:mean=logits", "apgd:loss=margin", "arc", "joint")


def attacks_on(entry: EvalModel, study: Study, threat: str) -> tuple[str, ...]:
    """The attacks on one model at one threat: those of the study, and for a switch the rungs of `LADDER`."""
    asked = study.attacks_at(threat)
    if not entry.members or not any(attack.startswith("autoattack") for attack in asked):
        return asked
    known = [rung for rung in LADDER if not (rung == "arc" and threat.startswith("L1"))]  # ARC knows no L1
    return tuple(dict.fromkeys([*asked, *known]))


def added(study: Study, field: Participants) -> str:
    """What to tell of attacks that nobody named; '' where there are none."""
    more = {
        attack: None
        for entry in field.entries
        for threat in study.threats
        for attack in attacks_on(entry, study, threat)
        if attack not in study.attacks_at(threat)
    }
    names = ", ".join(more)
    return f"autoattack sees only the mean of a switch; asked too are: {names}" if more else ""


def questions_of(study: Study, field: Participants) -> list[Question]:
    """All questions under one seed, cheap ones first."""
    plain = [entry for entry in field.entries if not entry.members]
    members = {m.digest: m for group in field.groups for m in group}
    crossed = [entry for entry in members.values() if entry.digest not in {e.digest for e in plain}]
    switches = [entry for entry in field.entries if entry.members]
    questions = [clean(entry) for entry in (*plain, *crossed)]
    for threat in study.threats:
        for attack in study.attacks_at(threat):
            bounded, seed = Threat.parse(threat), field.seed
            for entry in plain:
                # Members' images are judged by the whole group, whatever crafted them: the bounds of
                # a switch are taken over all of them.
                judges = field.group_of(entry)
                questions.append(Question(entry, judges, attack, bounded, seed))
            if stopped := early_stopped(attack):
                questions += [Question(m, field.group_of(m), attack, bounded, seed) for m in crossed]
                questions += [
                    Question(m, field.group_of(m), stopped, bounded, seed) for m in members.values()
                ]
        for entry in switches:
            for attack in attacks_on(entry, study, threat):
                questions.append(Question(entry, entry.members, attack, Threat.parse(threat), field.seed))
    return sorted(questions, key=lambda question: question.attack.startswith("autoattack"))


def early_stopped(text: str) -> str | None:
    """The same attack stopping at its first success, where it knows how and does not yet."""
    _, attack = parse_attack(text)
    if getattr(attack, "early_stop", True):
        return None
    stopped = dataclasses.replace(attack, early_stop=True)  # type: ignore[type-var]
    return canonical_text(text.partition(":")[0], stopped)


def refuse_other_kind(out: Path, *, rows: bool) -> None:
    """Raises BadRequest where a folder holds a transfer matrix and a leaderboard is asked, or the reverse:
    each would take the other's tables away."""
    if (out / FILE).exists() and bool(Manifest.load(out).rows) != rows:
        held = "a transfer matrix" if rows else "a leaderboard"
        raise BadRequest(f"{out} holds {held}; choose another --out")


def as_request(
    study: Study,
    setting: EvalSetting,
    images: int,
    fields: Sequence[Participants],
    questions: Sequence[Question],
    *,
    rows: bool = True,
) -> Manifest:
    """What this run asks for; without `rows` there is no leaderboard, only the matrix."""
    trials = [trial for question in questions for trial in question.trials(setting.data, setting.batch)]
    cards = {e.digest: e.card for q in questions for e in (q.source, *q.targets)}
    # A model that is a member of a switch too has its own name.
    cards |= {entry.digest: entry.card for field in fields for entry in field.entries}
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
            Row(entry.digest, threat, field.seed, attacks_on(entry, study, threat))
            for field in fields
            for threat in study.threats
            if study.attacks_at(threat)
            for entry in field.entries
            if rows
        ),
        groups=tuple(
            dict.fromkeys(tuple(e.digest for e in group) for field in fields for group in field.groups)
        ),
        keys=tuple(sorted({trial.key for trial in trials})),
        labels=tuple(setting.data.labels[:images].tolist()),
    )
