"""Making what a study names and is not made yet: tickets and trained networks, each in its file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..data import Images, load, parse, training_images
from ..errors import BadRequest, unknown
from ..harness.progress import Progress
from ..harness.store import write_whole
from ..plugins import find
from ..threat import Threat
from ..tickets.adversary import parse_adversary
from ..tickets.fit import Epoch, Lesson, hold_out
from ..tickets.init import INITS, random_weights
from ..tickets.mask import parse_remaining
from ..tickets.networks import NetworkSpec, build, prunable
from ..tickets.pattern import plan
from ..tickets.recipe import Recipe
from ..tickets.ticket import Ticket
from ..tickets.train import STARTS, Checkpoint, train

Made = TypeVar("Made", Ticket, Checkpoint)


@dataclass(frozen=True)
class Workshop:
    """Where things are made. root: where data sets lie."""

    root: Path
    device: torch.device
    progress: Progress
    _loaded: dict[str, tuple[Images, Images | None]] = field(default_factory=dict)

    def images(self, data: str) -> tuple[Images, Images | None]:
        """Training images and the source's own validation split, read once. Raises BadRequest."""
        if data not in self._loaded:
            self._loaded[data] = training_images(data, self.root)
        return self._loaded[data]

    def lesson(self, recipe: Recipe) -> Lesson:
        """The images a recipe learns from and is selected on. Raises BadRequest."""
        learning, own = self.images(recipe.data)
        if recipe.select == "test":
            source, name, _, _ = parse(recipe.data)
            test = load(":".join(filter(None, (source, name, "test"))), self.root)
            return Lesson(learning, test, on_test=True)
        if own is not None:
            return Lesson(learning, own)
        return Lesson(*hold_out(learning, recipe.seed))

    def draw(
        self, recipe: Recipe, remaining: str, path: Path, lesson: Lesson, *, store_weights: bool = True
    ) -> Ticket:
        """The ticket in `path`, drawn now unless it is there. Raises BadRequest where another one is."""
        parse_remaining(remaining)
        if path.exists():
            return _same(Ticket.load(path), recipe, remaining, path)
        spec = spec_for(recipe, lesson.train)
        weights = random_weights(prunable(build(spec)), recipe.init, recipe.seed)
        method: Callable[..., tuple[Ticket, list[Epoch]]] = find("methods", recipe.method)
        with self._stage(path, recipe) as stage:
            ticket, history = method(
                spec,
                weights,
                remaining,
                lesson,
                recipe,
                device=self.device,
                watch=lambda row: stage.advance(1, loss=row.loss, clean=row.clean, robust=row.robust),
                store_weights=store_weights,
                diary=_diary(path),
            )
        ticket = replace(ticket, facts={**ticket.facts, "history": _rows(history)})
        ticket.save(path)
        return ticket

    def train(self, recipe: Recipe, path: Path, lesson: Lesson, ticket: Ticket | None = None) -> Checkpoint:
        """The trained network in `path`, trained now unless it is there. Raises BadRequest."""
        remaining = ticket.remaining if ticket else "1"
        if path.exists():
            return _same(Checkpoint.load(path), recipe, remaining, path)
        spec = ticket.spec if ticket else spec_for(recipe, lesson.train)
        with self._stage(path, recipe) as stage:
            checkpoint, history = train(
                spec,
                lesson,
                recipe,
                ticket=ticket,
                device=self.device,
                watch=lambda row: stage.advance(1, loss=row.loss, clean=row.clean, robust=row.robust),
                diary=_diary(path),
            )
        checkpoint = replace(checkpoint, facts={**checkpoint.facts, "history": _rows(history)})
        checkpoint.save(path)
        return checkpoint

    def _stage(self, path: Path, recipe: Recipe) -> AbstractContextManager[Any]:
        return self.progress.stage(f"make {path.stem}", recipe.epochs, "epoch")


def spec_for(recipe: Recipe, images: Images) -> NetworkSpec:
    """The network of a recipe for these images."""
    return NetworkSpec(recipe.network, images.shape, images.classes, recipe.width, recipe.norm)


def check_recipe(recipe: Recipe, remaining: Sequence[str], images: Images, *, training: bool = False) -> None:
    """Raises BadRequest for what would fail only after the work has begun."""
    Threat.parse(recipe.threat)
    parse_adversary(recipe.adversary)
    if not training:
        find("methods", recipe.method)
    if recipe.init not in INITS:
        raise unknown("initialisation", recipe.init, INITS)
    shapes = {name: weight.shape for name, weight in prunable(build(spec_for(recipe, images))).items()}
    for value in remaining:
        plan(shapes, parse_remaining(value), recipe)
    if len({parse_remaining(value) for value in remaining}) < len(remaining):
        raise BadRequest(f"a remaining ratio is named twice: {', '.join(remaining)}")
    if len(images) < recipe.batch // 2:
        raise BadRequest(f"{len(images)} training images are too few for batches of {recipe.batch}")


def start_from(text: str, recipe: Recipe) -> tuple[Recipe, Ticket | None]:
    """The recipe of a fine-tuning that begins at `ticket:FILE`, and that ticket; (recipe, None) for none.

    Raises BadRequest where it is no ticket, or `weights` is none of inherit, reinit, reinit-kaiming.
    """
    if not text:
        if recipe.weights:
            raise BadRequest(f"weights = {recipe.weights!r} goes with a ticket to start from")
        return recipe, None
    ticket = Ticket.load(Path(text.removeprefix("ticket:")).expanduser())
    how = recipe.weights or "inherit"
    if how not in STARTS:
        raise unknown("start of the weights", how, STARTS)
    spec = ticket.spec
    recipe = replace(recipe, network=spec.name, width=spec.width, norm=spec.norm, init=ticket.recipe.init)
    return replace(recipe, weights=how, origin=ticket.digest[:16]), ticket


def _diary(path: Path) -> Path:
    """Where the unfinished work on a file is kept."""
    return path.with_name(f".{path.stem}.unfinished")


def write_history(folder: Path, made: Sequence[tuple[str, Ticket | Checkpoint]]) -> None:
    """`history.csv`: loss and held-out accuracies of every epoch of everything named."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "epoch", "loss", "clean", "robust", "lr"])
    for name, thing in made:
        writer.writerows([name, *row] for row in thing.facts.get("history", ()))
    write_whole(folder / "history.csv", text.getvalue().encode())


def _rows(history: Sequence[Epoch]) -> list[list[float]]:
    return [[row.epoch, *(round(v, 6) for v in (row.loss, row.clean, row.robust, row.lr))] for row in history]


def _same(found: Made, recipe: Recipe, remaining: str, path: Path) -> Made:
    """What lies in the file, if it is what would be made. Nothing finished is ever written over."""
    if parse_remaining(found.remaining) != parse_remaining(remaining):
        raise BadRequest(
            f"{path} keeps {found.remaining}, not {remaining}; delete it or choose another --out"
        )
    differs = [k for k, v in vars(recipe).items() if getattr(found.recipe, k) != v]
    if differs:
        key = differs[0]
        raise BadRequest(
            f"{path} was made with {key} {getattr(found.recipe, key)!r}, now {getattr(recipe, key)!r} is "
            f"asked; delete it or choose another --out"
        )
    return found
