"""Making what a study names and is not made yet: tickets and trained networks, each in its file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Images, load, parse, training_images
from ..errors import BadRequest
from ..files import write_whole
from ..models.identity import module_digest
from ..models.wrapper import load_reference
from ..networks.network import NetworkSpec, build, narrowed, prunable
from ..progress import Progress, Stage
from ..threat import Threat
from ..tickets.allocation import allocate
from ..tickets.checkpoint import Checkpoint, train
from ..tickets.init import random_weights, weights_digest
from ..tickets.mask import parse_remaining
from ..tickets.methods.search import Search, check_method, parse_method
from ..tickets.ticket import Ticket
from ..training.adversaries import parse_adversary
from ..training.costs import FILE, metered
from ..training.epochs import Epoch, EpochCallback, TrainSplit, hold_out
from ..training.recipe import Recipe
from .jobs import Job

Network = Ticket | Checkpoint


@dataclass(frozen=True)
class Builder:
    """Where things are made. root: where data sets lie."""

    root: Path
    device: torch.device
    progress: Progress
    _loaded: dict[str, tuple[Images, Images | None]] = field(default_factory=dict)
    _told: set[tuple[str, int]] = field(default_factory=set)

    def images(self, data: str) -> tuple[Images, Images | None]:
        """Training images and the source's own validation split, read once. Raises BadRequest."""
        if data not in self._loaded:
            self._loaded[data] = training_images(data, self.root)
        return self._loaded[data]

    def tell(self, *others: Images) -> None:
        """Says once, in a line each, how `others` and the images read so far were read."""
        read = [learning for learning, _ in self._loaded.values()]
        odd = [own for _, own in self._loaded.values() if own and own.notes]
        for images in (*others, *read, *odd):
            if (images.name, len(images)) not in self._told:
                self._told.add((images.name, len(images)))
                tell_of(images, self.progress)

    def lesson(self, recipe: Recipe) -> TrainSplit:
        """The images a recipe learns from and is selected on. Raises BadRequest."""
        learning, own = self.images(recipe.data)
        if recipe.select == "test":
            test = ":".join(filter(None, (*parse(recipe.data)[:2], "test")))
            if test not in self._loaded:
                self._loaded[test] = load(test, self.root), None
            return TrainSplit(learning, self._loaded[test][0], on_test=True)
        if own is not None:
            return TrainSplit(learning, own)
        return TrainSplit(*hold_out(learning, recipe.seed))

    def check(self, job: Job) -> None:
        """Raises BadRequest for what would fail only after the work has begun."""
        recipe, images = job.recipe, self.images(job.recipe.data)[0]
        begun = self._begin(job) if not job.needs or job.needs.exists() else None
        if begun:
            recipe = begun.recipe
            if begun.spec.shape != images.shape or begun.spec.classes != images.classes:
                raise BadRequest(
                    f"{job.name} begins from a network for images {begun.spec.shape} of {begun.spec.classes} "
                    f"classes, {recipe.data} has {images.shape} of {images.classes}"
                )
        Threat.parse(recipe.threat)
        parse_adversary(recipe.adversary)
        shapes = {name: w.shape for name, w in prunable(build(spec_for(recipe, images))).items()}
        if job.remaining:
            method = parse_method(recipe.method)
            allocate(shapes, parse_remaining(job.remaining), recipe)
            if begun:
                check_method(method, self._search(job, begun, lambda row: None))
        learning = len(self.lesson(recipe).train)
        if learning < max(2, recipe.batch // 2):
            raise BadRequest(f"{learning} training images are too few for batches of {recipe.batch}")

    def make(self, job: Job) -> Network:
        """What lies in the file of a job, made now unless it is there.

        Raises BadRequest where something else lies there, ModelFault where learning fails.
        """
        begun = self._begin(job)
        if job.path.exists():
            found = Ticket.load(job.path) if job.remaining else Checkpoint.load(job.path)
            return _same(found, begun, job.path)
        resumed = resume_file_of(job.path).exists()
        with metered(job.path.parent / FILE, job.path.stem, self.device, resumed=resumed):
            made, history = (self._draw if job.remaining else self._train)(job, begun)
        rows = [[row.epoch, *(round(value, 6) for value in astuple(row)[1:])] for row in history]
        made = replace(made, facts={**made.facts, "history": rows, "threads": torch.get_num_threads()})
        made.save(job.path)
        return made

    def _search(self, job: Job, begun: StartingPoint, on_epoch: EpochCallback) -> Search:
        recipe = begun.recipe
        return Search(
            begun.spec,
            begun.weights or random_weights(prunable(build(begun.spec)), recipe.init, recipe.seed),
            job.remaining,
            self.lesson(recipe),
            recipe,
            device=self.device,
            on_epoch=on_epoch,
            initial_state=begun.rest,
            store_weights=job.store_weights,
            resume_file=resume_file_of(job.path),
        )

    def _draw(self, job: Job, begun: StartingPoint) -> tuple[Network, list[Epoch]]:
        recipe = begun.recipe
        method = parse_method(recipe.method)
        extra = getattr(method, "extra_epochs", lambda remaining: 0)(parse_remaining(job.remaining))
        total = recipe.epochs + extra
        with self.progress.stage(f"draw {job.name}", total, "epoch") as stage:
            return method(self._search(job, begun, partial(_show, stage)))

    def _train(self, job: Job, begun: StartingPoint) -> tuple[Network, list[Epoch]]:
        with self.progress.stage(f"train {job.name}", begun.recipe.epochs, "epoch") as stage:
            return train(
                begun.spec,
                self.lesson(begun.recipe),
                begun.recipe,
                ticket=begun.ticket,
                device=self.device,
                on_epoch=partial(_show, stage),
                resume_file=resume_file_of(job.path),
            )

    def _begin(self, job: Job) -> StartingPoint:
        """What a job begins from. Raises BadRequest where that is of the wrong kind, or not there."""
        recipe = job.recipe
        if job.remaining and job.start:
            return _from_model(job, self.images(recipe.data)[0])
        if job.start:
            ticket = _ticket(job.start)
            recipe = _inheriting(recipe, ticket, ticket.digest)
            recipe = replace(recipe, weights=recipe.weights or "inherit")
            return StartingPoint(recipe, ticket.spec, ticket.remaining, ticket)
        if recipe.weights:
            raise BadRequest(f"weights = {recipe.weights!r} goes with a ticket to start from")
        if job.size_of:
            ticket = _ticket(job.size_of)
            spec = narrowed(ticket.spec, ticket.kept_weights)
            return StartingPoint(replace(recipe, **_network(spec)), spec)
        spec = spec_for(recipe, self.images(recipe.data)[0])
        return StartingPoint(recipe, spec, job.remaining or "1")


@dataclass(frozen=True)
class StartingPoint:
    """Where a job begins: its completed recipe, the network, and what of it is there already."""

    recipe: Recipe
    spec: NetworkSpec
    remaining: str = "1"
    ticket: Ticket | None = None
    weights: Mapping[str, Tensor] | None = None
    rest: Mapping[str, Tensor] | None = None


def tell_of(images: Images, progress: Progress) -> None:
    """Says how images were read: to everyone where that was odd, else where progress is shown."""
    (progress.note if images.notes else progress.remark)(images.summary)


def _show(stage: Stage, row: Epoch) -> None:
    stage.advance(1, loss=row.loss, clean=row.clean, robust=row.robust)


def spec_for(recipe: Recipe, images: Images) -> NetworkSpec:
    """The network of a recipe for these images."""
    return NetworkSpec(
        recipe.network,
        images.shape,
        images.classes,
        recipe.width,
        recipe.norm,
        recipe.last_norm,
        recipe.normalize,
    )


def resume_file_of(path: Path) -> Path:
    """Where the unfinished work on a file is kept."""
    return path.with_name(f".{path.stem}.unfinished")


def write_history(folder: Path, made: Sequence[tuple[str, Network]]) -> None:
    """`history.csv`: loss and held-out accuracies of every epoch of everything named."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "epoch", "loss", "clean", "robust", "lr"])
    for name, thing in made:
        writer.writerows([name, *row] for row in thing.facts.get("history", ()))
    write_whole(folder / "history.csv", text.getvalue().encode())


def _from_model(job: Job, images: Images) -> StartingPoint:
    """Trained weights: a checkpoint of this tool, or any model whose state dict the network can take."""
    source, _, file = job.start.partition(":")
    recipe = job.recipe
    if recipe.scale:
        raise BadRequest("scale is for random weights; trained ones are taken as they are")
    if not job.store_weights:
        raise BadRequest("trained weights follow from no seed: a ticket drawn from them stores them")
    if source == "checkpoint":
        found = Checkpoint.load(Path(file).expanduser())
        spec, state, digest = found.spec, found.state, weights_digest(found.state)
        recipe = _inheriting(recipe, found, digest)
    else:
        entry = load_reference(job.start)
        spec, state = spec_for(recipe, images), entry.module.state_dict()
        recipe = replace(recipe, origin=module_digest(entry.module)[0][:16])
        try:
            build(spec).load_state_dict(state)
        except RuntimeError as error:
            raise BadRequest(
                f"{job.start} has not the weights of {spec}: {str(error).splitlines()[1].strip()[:200]}"
            ) from error
    names = prunable(build(spec))
    weights = {name: state[name].detach().cpu().float() for name in names}
    rest = {name: tensor.detach().cpu() for name, tensor in state.items() if name not in names}
    return StartingPoint(recipe, spec, job.remaining, weights=weights, rest=rest)


def _inheriting(recipe: Recipe, source: Network, digest: str) -> Recipe:
    return replace(recipe, **_network(source.spec), init=source.recipe.init, origin=digest[:16])


def _network(spec: NetworkSpec) -> dict[str, Any]:
    """The settings of a recipe that name a network."""
    plain = {"width": spec.width, "norm": spec.norm, "last_norm": spec.last_norm, "normalize": spec.normalize}
    return {"network": spec.name, **plain}


def _ticket(reference: str) -> Ticket:
    source, colon, file = reference.partition(":")
    if colon and source != "ticket":
        raise BadRequest(f"a training begins from ticket:FILE, got {reference!r}")
    return Ticket.load(Path(file if colon else reference).expanduser())


def _same(found: Network, begun: StartingPoint, path: Path) -> Network:
    """What lies in the file, if it is what would be made. Nothing finished is ever written over."""
    if parse_remaining(found.remaining) != parse_remaining(begun.remaining):
        raise BadRequest(
            f"{path} keeps {found.remaining}, not {begun.remaining}; delete it or choose another --out"
        )
    differs = [k for k, v in vars(begun.recipe).items() if getattr(found.recipe, k) != v]
    if differs:
        key = differs[0]
        raise BadRequest(
            f"{path} was made with {key} {getattr(found.recipe, key)!r}, now "
            f"{getattr(begun.recipe, key)!r} is asked; delete it or choose another --out"
        )
    return found
