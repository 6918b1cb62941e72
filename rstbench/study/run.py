"""A study from start to end: make, ask, write. The same call again continues where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from ..adapters.entry import Entry, load_entry, named_apart
from ..adapters.sources.own import checkpoint_entry, switch_entry, ticket_entry
from ..attacks import canonical_text, parse_attack
from ..data import load, parse, training_images
from ..errors import BadRequest, ModelFault
from ..harness.adversarials import Keeper
from ..harness.bench import Question, Setting, ask, clean, pick_batch, pick_device, whole_shards
from ..harness.progress import Progress, Silent
from ..harness.request import Request, Row
from ..harness.shard import device_name, versions
from ..harness.store import Store
from ..reporters.evidence import Evidence
from ..reporters.tables import write
from ..threat import Threat
from ..tickets.ticket import Ticket
from ..tickets.train import Checkpoint
from .make import Workshop, check_recipe, start_from, write_history
from .plan import Asked, Make, Study


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: the common options of the command line."""

    out: Path
    device: str = "auto"
    batch: str = "auto"
    limit: int = 0  # images; 0 means those of the study
    root: Path = Path(".")
    save_adversarials: bool = False


@dataclass(frozen=True)
class Outcome:
    """The tables by name, and what failed."""

    tables: Mapping[str, pd.DataFrame]
    faults: Sequence[ModelFault]


@dataclass(frozen=True)
class Field:
    """Who takes part under one seed. groups: entries that are judged by one another."""

    seed: int
    entries: tuple[Entry, ...]
    groups: tuple[tuple[Entry, ...], ...] = ()

    def group_of(self, entry: Entry) -> tuple[Entry, ...]:
        """The entry itself first, then those that judge its images too."""
        mine = [group for group in self.groups if any(e.digest == entry.digest for e in group)]
        judges = {e.digest: e for e in (entry, *(e for group in mine for e in group))}
        return tuple(judges.values())


def run_study(
    study: Study, options: Options, progress: Progress | None = None, given: Sequence[Entry] = ()
) -> Outcome:
    """Makes what is missing, asks what is unanswered, writes the CSV files and `study.toml`.

    given: models in hand, besides those the study names.

    Raises BadRequest before any work; what fails later is in the outcome.
    """
    progress = progress or Silent()
    study = canonical_study(study)
    setting, images = settle(study, options)
    given = [*given_models(study), *given]
    for make in (*study.draws, *study.trains):
        _check(make, study.seeds, setting, options.root)
    store = Store(options.out)
    with store.alone():
        workshop = Workshop(options.root, setting.device, progress)
        fields_ = [_make(study, seed, given, workshop, options.out, progress) for seed in study.seeds]
        questions = [question for field_ in fields_ for question in _questions(study, field_)]
        request = as_request(study, setting, images, fields_, questions)
        request.save(options.out)
        keeper = Keeper(options.out) if options.save_adversarials else None
        faults = ask(
            questions,
            setting,
            store,
            progress,
            keep=keeper.keep if keeper else None,
            has=keeper.has if keeper else lambda trial, start: True,
        )
        if faults:
            request = replace(request, failures=tuple(str(fault) for fault in faults))
            request.save(options.out)
        if keeper:
            keeper.collect(request, setting.data, setting.batch)
        tables = write(Evidence.read(options.out), options.out)
    return Outcome(tables, faults)


def canonical_study(study: Study) -> Study:
    """The study with every threat and attack in its canonical text. Raises BadRequest."""
    threats = {text: str(Threat.parse(text)) for text in study.threats}
    attacks = [
        replace(a, attack=parse_attack(a.attack)[0], threat=threats.get(a.threat, "")) for a in study.attacks
    ]
    return replace(
        study, threats=tuple(dict.fromkeys(threats.values())), attacks=tuple(dict.fromkeys(attacks))
    )


def settle(study: Study, options: Options) -> tuple[Setting, int]:
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
    batch = pick_batch(options.batch, device, options.limit or wanted)
    whole = whole_shards(options.limit or wanted, batch, len(data))
    return Setting(data.first(whole), batch, device), whole if options.limit else wanted


def given_models(study: Study) -> list[Entry]:
    """The models that a study names, loaded."""
    found = []
    for name, reference in study.models:
        entry = load_entry(reference)
        card = replace(entry.card, name=name) if name else entry.card
        found.append((reference, replace(entry, card=card)))
    return named_apart(found)


def _check(make: Make, seeds: Iterable[int], setting: Setting, root: Path) -> None:
    for seed in seeds:
        recipe, ticket = start_from(make.start, make.recipe(seed))
        images, _ = training_images(recipe.data, root)
        check_recipe(recipe, make.remaining, images, training=not make.remaining)
        shape = ticket.spec.shape if ticket else images.shape
        if shape != setting.data.shape:
            raise BadRequest(
                f"{make.name} learns from images {shape}, {setting.data.name} has {setting.data.shape}"
            )


def _make(
    study: Study, seed: int, given: Sequence[Entry], workshop: Workshop, out: Path, progress: Progress
) -> Field:
    """Draws and trains for one seed; with several seeds the names carry theirs."""
    mark = f"-seed{seed}" if len(study.seeds) > 1 else ""
    entries: list[Entry] = []
    groups: list[tuple[Entry, ...]] = []
    made: list[tuple[str, Ticket | Checkpoint]] = []
    for make in study.draws:
        recipe = make.recipe(seed)
        lesson = workshop.lesson(recipe)
        family = []
        for remaining in make.remaining:
            name = f"{make.name}-{remaining}"
            ticket = workshop.draw(
                recipe, remaining, out / "tickets" / f"{name}-seed{seed}.safetensors", lesson
            )
            made.append((f"{name}-seed{seed}", ticket))
            family.append(ticket_entry(ticket, name + mark))
        entries += family
        if len(family) > 1 and (study.transfer or study.switch):
            groups.append(tuple(family))
            if study.switch:
                entries.append(switch_entry(family, f"switch-{make.name}{mark}"))
    for make in study.trains:
        recipe, start = start_from(make.start, make.recipe(seed))
        path = out / "checkpoints" / f"{make.name}-seed{seed}.safetensors"
        checkpoint = workshop.train(recipe, path, workshop.lesson(recipe), start)
        made.append((f"{make.name}-seed{seed}", checkpoint))
        entries.append(checkpoint_entry(checkpoint, make.name + mark))
    if made:
        write_history(out / "tickets", made)
    for entry in given:
        if not entry.resumable:
            progress.note(
                f"{entry.card.name}: the code that defines it cannot be read, so nothing of it is resumed"
            )
        if entry.members:
            groups.append(entry.members)
    entries += given
    if study.transfer and not study.draws:
        groups.append(tuple(entry for entry in given if not entry.members))
    return Field(seed, _apart(entries, progress), tuple(groups))


def _apart(entries: Iterable[Entry], progress: Progress) -> tuple[Entry, ...]:
    """The entries, each model once."""
    found: dict[str, Entry] = {}
    for entry in entries:
        first = found.setdefault(entry.digest, entry)
        if first is not entry:
            progress.note(f"{entry.card.name} is the same model as {first.card.name}: it is listed once")
    return tuple(found.values())


def _questions(study: Study, field_: Field) -> list[Question]:
    """All questions under one seed, cheap ones first."""
    plain = [entry for entry in field_.entries if not entry.members]
    members = {m.digest: m for group in field_.groups for m in group}
    crossed = [entry for entry in members.values() if entry.digest not in {e.digest for e in plain}]
    questions = [clean(entry) for entry in (*plain, *crossed)]
    for threat in study.threats:
        for attack in study.attacks_at(threat):
            bounded, seed = Threat.parse(threat), field_.seed
            for entry in plain:
                # Members' images are judged by the whole group, whatever crafted them: the bounds of
                # a switch are taken over all of them.
                judges = field_.group_of(entry)
                questions.append(Question(entry, judges, attack, bounded, seed))
            if stopped := early_stopped(attack):
                questions += [Question(m, field_.group_of(m), attack, bounded, seed) for m in crossed]
                questions += [
                    Question(m, field_.group_of(m), stopped, bounded, seed) for m in members.values()
                ]
            for entry in field_.entries:
                if entry.members:
                    questions.append(Question(entry, entry.members, attack, bounded, seed))
    return sorted(questions, key=lambda question: question.attack.startswith("autoattack"))


def early_stopped(text: str) -> str | None:
    """The same attack stopping at its first success, where it knows how and does not yet."""
    _, attack = parse_attack(text)
    if getattr(attack, "early_stop", True):
        return None
    stopped = dataclasses.replace(attack, early_stop=True)  # type: ignore[type-var]
    return canonical_text(text.partition(":")[0], stopped)


def as_request(
    study: Study,
    setting: Setting,
    images: int,
    fields_: Sequence[Field],
    questions: Sequence[Question],
    *,
    rows: bool = True,
) -> Request:
    """What this run asks for; without `rows` there is no leaderboard, only the matrix."""
    trials = [trial for question in questions for trial in question.trials(setting.data, setting.batch)]
    cards = {e.digest: e.card for q in questions for e in (q.source, *q.targets)}
    return Request(
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
        cards=cards,
        rows=tuple(
            Row(entry.digest, threat, field_.seed, study.attacks_at(threat))
            for field_ in fields_
            for threat in study.threats
            if study.attacks_at(threat)
            for entry in field_.entries
            if rows
        ),
        groups=tuple(
            dict.fromkeys(tuple(e.digest for e in group) for field_ in fields_ for group in field_.groups)
        ),
        keys=tuple(sorted({trial.key for trial in trials})),
    )


def adhoc(
    models: Sequence[str], attacks: Sequence[str], threats: Sequence[str], data: str | None, seed: int
) -> Study:
    """A study of models given by reference; data and threats that are not given are their recipes'.

    Raises BadRequest where the recipes are silent or disagree.
    """
    recipes = [entry.recipe for entry in map(load_entry, models) if entry.recipe]
    if not threats:
        threats = [_common("--threat", {recipe.threat for recipe in recipes})]
    if not data:
        sources = {":".join(filter(None, parse(recipe.data)[:2])) for recipe in recipes}
        data = _common("--data", sources) + ":test"
    return Study(
        name="adhoc",
        data=data,
        threats=tuple(threats),
        attacks=tuple(Asked(attack) for attack in attacks) or Study.attacks,
        seeds=(seed,),
        models=tuple(("", text) for text in models),
    )


def _common(option: str, found: set[str]) -> str:
    if len(found) != 1:
        why = f"the models' recipes say {' and '.join(sorted(found))}" if found else "no model has a recipe"
        raise BadRequest(f"{option} is not given, and {why}; add {option}")
    return found.pop()
