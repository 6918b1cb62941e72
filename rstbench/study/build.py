"""Make the tickets and trained networks of a study, each in its file, unless they exist."""

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

from ..data import Images, load, training_images
from ..errors import BadFile, BadRequest, ModelFault, typed_line
from ..evaluation.memory import is_out_of_memory
from ..evaluation.workers import load_of, seconds_for, threads_for
from ..evidence.costs import COSTS_FILE
from ..files import write_whole
from ..models.identity import module_digest
from ..models.wrapper import load_reference
from ..networks.network import NetworkSpec, build, narrowed, prunable
from ..progress import Progress, Stage
from ..references import DataReference
from ..threat import Threat
from ..tickets.allocation import allocate
from ..tickets.checkpoint import Checkpoint, train
from ..tickets.init import random_weights, weights_digest
from ..tickets.mask import parse_remaining
from ..tickets.methods.search import Search, check_method, parse_method
from ..tickets.ticket import Ticket
from ..training.adversaries import parse_adversary
from ..training.costs import record_cost
from ..training.epochs import Epoch, EpochCallback, TrainSplit, hold_out
from ..training.recipe import Recipe
from .jobs import Job
from .plan import OF_NETWORK

Network = Ticket | Checkpoint
STEP_PASSES = 3  # of an image in an optimiser step: forward, and backward to what is trained and through


@dataclass(frozen=True)
class Builder:
    """Make networks on one device. root: where data sets lie."""

    root: Path
    device: torch.device
    progress: Progress
    _loaded: dict[str, tuple[Images, Images | None]] = field(default_factory=dict)
    _reported: set[tuple[str, int]] = field(default_factory=set)
    _loads: dict[str, float] = field(default_factory=dict)  # of the jobs that were checked, by name

    def images(self, data: str) -> tuple[Images, Images | None]:
        """Return training images and the source's own validation split, read once. Raises BadRequest."""
        if data not in self._loaded:
            self._loaded[data] = training_images(data, self.root)
        return self._loaded[data]

    def report_images(self, *others: Images) -> None:
        """Report once how `others` and the images loaded so far were read."""
        train = [images for images, _ in self._loaded.values()]
        noted = [validation for _, validation in self._loaded.values() if validation and validation.notes]
        for images in (*others, *train, *noted):
            if (images.name, len(images)) not in self._reported:
                self._reported.add((images.name, len(images)))
                report_images(images, self.progress)

    def train_split(self, recipe: Recipe) -> TrainSplit:
        """Return the images a recipe learns from and is selected on. Raises BadRequest."""
        train, validation = self.images(recipe.data)
        if recipe.select == "test":
            test = str(DataReference.parse(recipe.data).all_of("test"))
            if test not in self._loaded:
                self._loaded[test] = load(test, self.root), None
            return TrainSplit(train, self._loaded[test][0], on_test=True)
        if validation is not None:
            return TrainSplit(train, validation)
        return TrainSplit(*hold_out(train, recipe.seed))

    def check(self, job: Job) -> None:
        """Raise BadRequest for what would fail only after the work has begun."""
        recipe, images = job.recipe, self.images(job.recipe.data)[0]
        start = self._starting_point(job) if not job.needs or job.needs.exists() else None
        if start:
            recipe = start.recipe
            if start.spec.shape != images.shape or start.spec.classes != images.classes:
                raise BadRequest(
                    f"{job.name} begins from a network for images {start.spec.shape} of {start.spec.classes} "
                    f"classes, {recipe.data} has {images.shape} of {images.classes}"
                )
        Threat.parse(recipe.threat)
        parse_adversary(recipe.adversary)
        net = build(spec_for(recipe, images))
        shapes = {name: w.shape for name, w in prunable(net).items()}
        self._loads[job.name] = load_of([net], images.shape[1] * images.shape[2])
        if job.remaining:
            method = parse_method(recipe.method)
            allocate(shapes, parse_remaining(job.remaining), recipe)
            if start:
                check_method(method, self._search(job, start, lambda row: None))
        count = len(self.train_split(recipe).train)
        if count < max(2, recipe.batch // 2):
            raise BadRequest(f"{count} training images are too few for batches of {recipe.batch}")

    def threads(self, job: Job) -> int:
        """Return the threads of torch for a checked job beside others, 0 for what the process has."""
        return 0 if self.device.type == "cuda" else threads_for(self._loads[job.name])

    def estimate(self, job: Job) -> float:
        """Return about how many seconds a checked job takes."""
        images = job.recipe.epochs * len(self.images(job.recipe.data)[0])
        passes = STEP_PASSES + parse_adversary(job.recipe.adversary).passes
        return seconds_for(passes, images, self._loads[job.name])

    def make(self, job: Job) -> Network:
        """Make the network of a job and write its file; where the file exists, load it.

        Raises BadRequest where the file holds something else, ModelFault where learning fails.
        """
        start = self._starting_point(job)
        if job.path.exists():
            try:
                network: Network = (Ticket if job.remaining else Checkpoint).load(job.path)
            except BadFile as error:
                raise BadFile(f"{error}; delete it, and the same command makes it again") from error
            _refuse_other(network, start, job.path)
            return network
        resumed = resume_path(job.path).exists()
        with record_cost(job.path.parent / COSTS_FILE, job.path.stem, self.device, resumed=resumed):
            network, history = self._learn(job, start)
        rows = [[row.epoch, *(round(value, 6) for value in astuple(row)[1:])] for row in history]
        facts = {**network.facts, "history": rows, "threads": torch.get_num_threads()}
        network = replace(network, facts=facts)
        network.save(job.path)
        return network

    def _learn(self, job: Job, start: StartingPoint) -> tuple[Network, list[Epoch]]:
        try:
            return (self._draw if job.remaining else self._train)(job, start)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ModelFault(f"no memory to learn it, try a smaller batch: {typed_line(error)}") from error

    def _search(self, job: Job, start: StartingPoint, on_epoch: EpochCallback) -> Search:
        recipe = start.recipe
        return Search(
            start.spec,
            start.weights or random_weights(prunable(build(start.spec)), recipe.init, recipe.seed),
            job.remaining,
            self.train_split(recipe),
            recipe,
            device=self.device,
            on_epoch=on_epoch,
            initial_state=start.other_state,
            options=job.options,
            resume_file=resume_path(job.path),
        )

    def _draw(self, job: Job, start: StartingPoint) -> tuple[Network, list[Epoch]]:
        method = parse_method(start.recipe.method)
        further = getattr(method, "extra_epochs", lambda remaining: 0)(parse_remaining(job.remaining))
        with self.progress.stage(f"draw {job.name}", start.recipe.epochs + further, "epoch") as stage:
            return method(self._search(job, start, partial(_advance, stage)))

    def _train(self, job: Job, start: StartingPoint) -> tuple[Network, list[Epoch]]:
        with self.progress.stage(f"train {job.name}", start.recipe.epochs, "epoch") as stage:
            return train(
                start.spec,
                self.train_split(start.recipe),
                start.recipe,
                ticket=start.ticket,
                device=self.device,
                on_epoch=partial(_advance, stage),
                resume_file=resume_path(job.path),
            )

    def _starting_point(self, job: Job) -> StartingPoint:
        """Return what a job begins from. Raises BadRequest where that is of the wrong kind, or missing."""
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
    """Where a job begins: its completed recipe, the network, and what of it exists already.

    weights: those a mask is drawn over; other_state: the rest of their state dict.
    """

    recipe: Recipe
    spec: NetworkSpec
    remaining: str = "1"
    ticket: Ticket | None = None
    weights: Mapping[str, Tensor] | None = None
    other_state: Mapping[str, Tensor] | None = None


def report_images(images: Images, progress: Progress) -> None:
    """Report how images were read: always where there are notes, else where progress is shown."""
    (progress.note if images.notes else progress.remark)(images.summary)


def _advance(stage: Stage, row: Epoch) -> None:
    stage.advance(1, loss=row.loss, clean=row.clean, robust=row.robust)


def spec_for(recipe: Recipe, images: Images) -> NetworkSpec:
    """Return the network of a recipe for these images."""
    name, *others = (getattr(recipe, key) for key in OF_NETWORK)
    return NetworkSpec(name, images.shape, images.classes, *others)


def resume_path(path: Path) -> Path:
    """Return the file from which unfinished work on another one resumes."""
    return path.with_name(f".{path.stem}.unfinished")


def write_history(folder: Path, networks: Sequence[tuple[str, Network]]) -> None:
    """Write `history.csv`: loss and held-out accuracies of every epoch of the named networks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "epoch", "loss", "clean", "robust", "lr"])
    for name, network in networks:
        writer.writerows([name, *row] for row in network.facts.get("history", ()))
    write_whole(folder / "history.csv", text.getvalue().encode())


def _from_model(job: Job, images: Images) -> StartingPoint:
    """Begin from trained weights: of a checkpoint of this tool, or of a model whose state dict fits."""
    (source, _, file), recipe = job.start.partition(":"), job.recipe
    if recipe.scale:
        raise BadRequest("scale is for random weights; trained ones are taken as they are")
    if not job.options.store_weights:
        raise BadRequest("trained weights follow from no seed: a ticket drawn from them stores them")
    if source == "checkpoint":
        checkpoint = Checkpoint.load(Path(file).expanduser())
        spec, state = checkpoint.spec, checkpoint.state
        recipe = _inheriting(recipe, checkpoint, weights_digest(state))
    else:
        module = load_reference(job.start).module
        spec, state = spec_for(recipe, images), module.state_dict()
        recipe = replace(recipe, origin=module_digest(module)[0][:16])
        try:
            build(spec).load_state_dict(state)
        except RuntimeError as error:
            why = str(error).splitlines()[1].strip()[:200]
            raise BadRequest(f"{job.start} has not the weights of {spec}: {why}") from error
    names = prunable(build(spec))
    weights = {name: state[name].detach().cpu().float() for name in names}
    other_state = {name: tensor.detach().cpu() for name, tensor in state.items() if name not in names}
    return StartingPoint(recipe, spec, job.remaining, weights=weights, other_state=other_state)


def _inheriting(recipe: Recipe, source: Network, digest: str) -> Recipe:
    """Return the recipe with the network and initialisation of what it begins from."""
    return replace(recipe, **_network(source.spec), init=source.recipe.init, origin=digest[:16])


def _network(spec: NetworkSpec) -> dict[str, Any]:
    """Return the settings of a recipe that name a network."""
    return {key: getattr(spec, "name" if key == "network" else key) for key in OF_NETWORK}


def _ticket(reference: str) -> Ticket:
    source, colon, file = reference.partition(":")
    if colon and source != "ticket":
        raise BadRequest(f"a training begins from ticket:FILE, got {reference!r}")
    return Ticket.load(Path(file if colon else reference).expanduser())


def _refuse_other(network: Network, start: StartingPoint, path: Path) -> None:
    """Raise BadRequest where a file holds another network than would be made: nothing is overwritten."""
    if parse_remaining(network.remaining) != parse_remaining(start.remaining):
        raise BadRequest(
            f"{path} keeps {network.remaining}, not {start.remaining}; delete it or choose another --out"
        )
    for key, value in vars(start.recipe).items():
        if getattr(network.recipe, key) != value:
            raise BadRequest(
                f"{path} was made with {key} {getattr(network.recipe, key)!r}, now {value!r} is asked; "
                f"delete it or choose another --out"
            )
