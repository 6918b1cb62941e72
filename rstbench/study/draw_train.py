"""The verbs `draw` and `train`: make the networks of one table without a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import download
from ..errors import BadRequest, ModelFault
from ..evaluation.evaluate import pick_device
from ..evaluation.workers import executor_for
from ..evidence import run_log
from ..evidence.store import Store
from ..progress import Progress
from ..references import DataReference
from ..tickets.checkpoint import Checkpoint
from ..tickets.mask import parse_remaining
from ..tickets.ticket import Ticket
from ..training.recipe import DrawOptions, recipe_for
from .build import Builder, Network, write_history
from .jobs import Job
from .parallel import BuildResult, make_all
from .plan import names_a_file, refuse_fixed, refuse_mixed
from .run import Options

# (file, summary) of each network that was made, and what failed.
Made = tuple[list[tuple[Path, str]], list[ModelFault]]


def draw_tickets(
    settings: Mapping[str, Any],
    remaining: Sequence[str],
    options: Options,
    progress: Progress,
    *,
    start: str = "",
) -> Made:
    """Draw one ticket a ratio into `out/<network>-<remaining>.safetensors`.

    settings: of the recipe, and `DrawOptions` by the names of their options; start: the model whose trained
    weights to choose from, '' for random ones.
    """
    if not remaining:
        raise BadRequest("--remaining wants kept fractions such as 0.05,0.1")
    if len({parse_remaining(ratio) for ratio in remaining}) < len(remaining):
        raise BadRequest(f"a remaining ratio is named twice: {', '.join(remaining)}")
    start = _reference(start, "checkpoint")
    draw_options, settings = DrawOptions.split(settings)
    refuse_fixed(settings if names_a_file(start) else {}, "")
    if names_a_file(start):
        trained = Checkpoint.load(_path(start))
        # The same seed holds out the same images: none that the weights were learnt on selects the epoch.
        settings = {"seed": trained.recipe.seed, **settings, "network": trained.spec.name}
    recipe = recipe_for(settings)
    jobs = [
        Job(name, options.out / f"{name}.safetensors", recipe, ratio, start, options=draw_options)
        for ratio in remaining
        for name in [f"{recipe.network.replace(':', '-')}-{ratio}"]
    ]
    return _make(jobs, options, progress)


def train_network(
    settings: Mapping[str, Any], options: Options, progress: Progress, *, start: str = "", size_of: str = ""
) -> Made:
    """Train one network into `out/<network>.safetensors`.

    A ticket's is named `<network>-<remaining>-<weights>`, one of its size `<network>-<remaining>-narrow`.
    """
    refuse_mixed(settings, start, size_of, "")
    name = recipe_for({**settings, "method": "training"}).network.replace(":", "-")
    if origin := start or size_of:
        ticket = Ticket.load(_path(_reference(origin, "ticket")))
        own = ticket.recipe
        settings = {"data": own.data, "threat": own.threat, "seed": own.seed, **settings}
        suffix = "narrow" if size_of else settings.get("weights") or "inherit"
        name = f"{ticket.spec.name.replace(':', '-')}-{ticket.remaining}-{suffix}"
    recipe = recipe_for({**settings, "method": "training"})
    path = options.out / f"{name}.safetensors"
    start, size_of = _reference(start, "ticket"), _reference(size_of, "ticket")
    return _make([Job(name, path, recipe, start=start, size_of=size_of)], options, progress)


def _make(jobs: Sequence[Job], options: Options, progress: Progress) -> Made:
    if options.download:
        download((DataReference.parse(job.recipe.data) for job in jobs), options.root)
    out, builder = options.out, Builder(options.root, pick_device(options.device), progress)
    for job in jobs:
        builder.check(job)
    builder.report_images()
    with executor_for(options.workers, builder.device, text=options.executor) as executor, Store(out).lock():
        run_log.begin(out, [job.path for job in jobs])
        result = BuildResult(lambda fault: run_log.add(out, "fault", fault), several=len(jobs) > 1)
        built = make_all(jobs, builder, executor, result)
        networks = [(job.name, built.made[job.path]) for job in jobs if job.path in built.made]
        # The folder may hold what earlier commands made; their histories stay.
        networks += _other_networks(out, {job.path for job in jobs})
        write_history(out, sorted(networks, key=lambda pair: pair[0]))
        run_log.add(out, "ended")
    made = [(job.path, _summary(built.made[job.path])) for job in jobs if job.path in built.made]
    return made, list(built.faults.values())


def _other_networks(folder: Path, own: set[Path]) -> list[tuple[str, Network]]:
    networks: list[tuple[str, Network]] = []
    for path in folder.glob("*.safetensors"):
        for kind in (Ticket, Checkpoint):
            try:
                networks += [(path.stem, kind.load(path))] if path not in own else []
            except BadRequest:
                continue  # of the other kind, or not of this tool
    return networks


def _reference(reference: str, source: str) -> str:
    """Return a bare path as `source:path`."""
    known = reference.partition(":")[0].isidentifier() and ":" in reference
    return reference if known or not reference else f"{source}:{reference}"


def _path(reference: str) -> Path:
    return Path(reference.partition(":")[2]).expanduser()


def _summary(network: Network) -> str:
    facts, kept = network.facts, network.facts["kept_epoch"]
    notes = {"dense": facts.get("dense"), "mask as at its random start": facts.get("unmoved")}
    return (
        f"{network.kept_weights} of {network.total_weights} weights, epoch {kept['epoch']}, held-out clean "
        f"{kept['clean']:.3f}, robust {kept['robust']:.3f}"
        + "".join(f"; {note}: {' '.join(layers)}" for note, layers in notes.items() if layers)
    )
