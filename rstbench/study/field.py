"""Who takes part: models given by reference, tickets drawn, networks trained, switches of tickets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..adapters.entry import Entry, load_entry, named_apart
from ..adapters.sources.own import checkpoint_entry, switch_entry, ticket_entry
from ..errors import ModelFault
from ..harness.progress import Progress
from ..tickets.ticket import Ticket
from ..tickets.train import Checkpoint
from .make import Workshop, start_from, write_history
from .plan import Make, Study

Made = TypeVar("Made", Ticket, Checkpoint)


@dataclass(frozen=True)
class Field:
    """Who takes part under one seed. groups: entries that are judged by one another; faults: what
    could not be made."""

    seed: int
    entries: tuple[Entry, ...]
    groups: tuple[tuple[Entry, ...], ...] = ()
    faults: tuple[ModelFault, ...] = ()

    def group_of(self, entry: Entry) -> tuple[Entry, ...]:
        """The entry itself first, then those that judge its images too."""
        mine = [group for group in self.groups if any(e.digest == entry.digest for e in group)]
        judges = {e.digest: e for e in (entry, *(e for group in mine for e in group))}
        return tuple(judges.values())


def given_models(study: Study) -> list[Entry]:
    """The models that a study names, loaded."""
    found = []
    for name, reference in study.models:
        entry = load_entry(reference)
        card = replace(entry.card, name=name) if name else entry.card
        found.append((reference, replace(entry, card=card)))
    return named_apart(found)


def make_field(study: Study, seed: int, given: Sequence[Entry], shop: Workshop, out: Path) -> Field:
    """Draws and trains for one seed what is not there yet; with several seeds the names carry theirs."""
    crew = _Crew(shop, out, seed, f"-seed{seed}" if len(study.seeds) > 1 else "")
    for make in study.draws:
        crew.draw(make, crossed=study.transfer or study.switch, switched=study.switch)
    for make in study.trains:
        crew.train(make)
    if crew.made:
        write_history(out / "tickets", crew.made)
    crew.add(given)
    if study.transfer and not study.draws:
        crew.groups.append(tuple(entry for entry in given if not entry.members))
    return Field(seed, apart(crew.entries, shop.progress), tuple(crew.groups), tuple(crew.faults))


class _Crew:
    """Collects who takes part under one seed, while it is made."""

    def __init__(self, shop: Workshop, out: Path, seed: int, mark: str) -> None:
        self.shop, self.out, self.seed, self.mark = shop, out, seed, mark
        self.entries: list[Entry] = []
        self.groups: list[tuple[Entry, ...]] = []
        self.made: list[tuple[str, Ticket | Checkpoint]] = []
        self.faults: list[ModelFault] = []

    def draw(self, make: Make, *, crossed: bool, switched: bool) -> None:
        """The tickets of one table; they are a group, and with `switched` a switch."""
        recipe = make.recipe(self.seed)
        lesson = self.shop.lesson(recipe)
        family = []
        for remaining in make.remaining:
            name = f"{make.name}-{remaining}"
            path = self._path("tickets", name)
            ticket = self._made(name, partial(self.shop.draw, recipe, remaining, path, lesson))
            if ticket is not None:
                family.append(ticket_entry(ticket, name + self.mark))
        self.entries += family
        if len(family) > 1 and crossed:
            self.groups.append(tuple(family))
        if len(family) == len(make.remaining) > 1 and switched:
            self.entries.append(switch_entry(family, f"switch-{make.name}{self.mark}"))

    def train(self, make: Make) -> None:
        """The network of one table."""
        recipe, start = start_from(make.start, make.recipe(self.seed))
        path = self._path("checkpoints", make.name)
        checkpoint = self._made(
            make.name, lambda: self.shop.train(recipe, path, self.shop.lesson(recipe), start)
        )
        if checkpoint is not None:
            self.entries.append(checkpoint_entry(checkpoint, make.name + self.mark))

    def add(self, given: Sequence[Entry]) -> None:
        """Models in hand; the members of a switch are a group."""
        for entry in given:
            if not entry.resumable:
                self.shop.progress.note(
                    f"{entry.card.name}: the code that defines it cannot be read, so nothing of it is resumed"
                )
            if entry.members:
                self.groups.append(entry.members)
        self.entries += given

    def _path(self, folder: str, name: str) -> Path:
        return self.out / folder / f"{name}-seed{self.seed}.safetensors"

    def _made(self, name: str, make: Callable[[], Made]) -> Made | None:
        try:
            made = make()
        except ModelFault as fault:
            self.faults.append(ModelFault(f"{name}: {fault}"))
            return None
        self.made.append((f"{name}-seed{self.seed}", made))
        return made


def apart(entries: Iterable[Entry], progress: Progress) -> tuple[Entry, ...]:
    """The entries, each model once."""
    found: dict[str, Entry] = {}
    for entry in entries:
        first = found.setdefault(entry.digest, entry)
        if first is not entry:
            progress.note(f"{entry.card.name} is the same model as {first.card.name}: it is listed once")
    return tuple(found.values())
