"""The verbs `draw` and `train`: one table of a study, made by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import download
from ..errors import BadRequest, ModelFault
from ..evaluation.evaluate import pick_device
from ..evidence import run_log
from ..evidence.store import Store
from ..progress import Progress
from ..tickets.checkpoint import Checkpoint
from ..tickets.mask import parse_remaining
from ..tickets.ticket import Ticket
from ..training.recipe import recipe_for
from .build import Builder, Network, write_history
from .jobs import Job
from .parallel import make_all
from .plan import names_a_file, refuse_fixed, refuse_mixed
from .run import Options

# (file, summary) of each that was made, and what failed.
Listed = tuple[list[tuple[Path, str]], list[ModelFault]]


def draw_tickets(
    settings: Mapping[str, Any],
    remaining: Sequence[str],
    options: Options,
    progress: Progress,
    *,
    start: str = "",
    store: bool = True,
) -> Listed:
    """Draws one ticket a ratio into `out/<network>-<remaining>.safetensors`; what was made, and what failed.

    start: the model whose trained weights to choose from, '' for random ones.
    """
    if not remaining:
        raise BadRequest("--remaining wants kept fractions such as 0.05,0.1")
    if len({parse_remaining(ratio) for ratio in remaining}) < len(remaining):
        raise BadRequest(f"a remaining ratio is named twice: {', '.join(remaining)}")
    start = _file_of(start, "checkpoint")
    refuse_fixed(settings if names_a_file(start) else {}, "")
    if names_a_file(start):
        trained = Checkpoint.load(_path(start))
        # The same seed holds out the same images: none that the weights were learnt on selects the epoch.
        settings = {"seed": trained.recipe.seed, **settings, "network": trained.spec.name}
    recipe = recipe_for(dict(settings))
    jobs = [
        Job(name, options.out / f"{name}.safetensors", recipe, ratio, start, store_weights=store)
        for ratio in remaining
        for name in [f"{recipe.network.replace(':', '-')}-{ratio}"]
    ]
    return _make(jobs, options, progress)


def train_network(
    settings: Mapping[str, Any], options: Options, progress: Progress, *, start: str = "", size_of: str = ""
) -> Listed:
    """Trains one network into `out/<network>.safetensors`, a ticket's into `<network>-<remaining>-<weights>`,
    one of a ticket's size into `<network>-<remaining>-narrow`."""
    refuse_mixed(settings, start, size_of, "")
    name = recipe_for({**settings, "method": "training"}).network.replace(":", "-")
    if begun := start or size_of:
        ticket = Ticket.load(_path(_file_of(begun, "ticket")))
        own = ticket.recipe
        settings = {"data": own.data, "threat": own.threat, "seed": own.seed, **settings}
        end = "narrow" if size_of else settings.get("weights") or "inherit"
        name = f"{ticket.spec.name.replace(':', '-')}-{ticket.remaining}-{end}"
    recipe = recipe_for({**settings, "method": "training"})
    path = options.out / f"{name}.safetensors"
    start, size_of = _file_of(start, "ticket"), _file_of(size_of, "ticket")
    return _make([Job(name, path, recipe, start=start, size_of=size_of)], options, progress)


def _make(jobs: Sequence[Job], options: Options, progress: Progress) -> Listed:
    if options.download:
        download({job.recipe.data for job in jobs}, options.root)
    shop = Builder(options.root, pick_device(options.device), progress)
    for job in jobs:
        shop.check(job)
    shop.tell()
    with Store(options.out).lock():
        run_log.begin(options.out, [job.path for job in jobs])
        done = make_all(jobs, shop, options.workers, lambda fault: run_log.add(options.out, "fault", fault))
        named = [(job.name, done.made[job.path]) for job in jobs if job.path in done.made]
        # The folder may hold what earlier commands made; their histories stay.
        others = _others(options.out, {job.path for job in jobs})
        write_history(options.out, sorted([*others, *named], key=lambda pair: pair[0]))
        run_log.add(options.out, "ended")
    made = [(job.path, _summary(done.made[job.path])) for job in jobs if job.path in done.made]
    return made, list(done.faults.values())


def _others(out: Path, mine: set[Path]) -> list[tuple[str, Network]]:
    found: list[tuple[str, Network]] = []
    for path in out.glob("*.safetensors"):
        for kind in (Ticket, Checkpoint):
            try:
                found += [(path.stem, kind.load(path))] if path not in mine else []
            except BadRequest:
                continue  # of the other kind, or not ours
    return found


def _file_of(reference: str, source: str) -> str:
    """A bare path as `source:path`."""
    known = reference.partition(":")[0].isidentifier() and ":" in reference
    return reference if known or not reference else f"{source}:{reference}"


def _path(reference: str) -> Path:
    return Path(reference.partition(":")[2]).expanduser()


def _summary(made: Network) -> str:
    kept = made.facts["kept_epoch"]
    notes = {"dense": made.facts.get("dense"), "mask as at its random start": made.facts.get("unmoved")}
    return (
        f"{made.kept_weights} of {made.total_weights} weights, epoch {kept['epoch']}, held-out clean "
        f"{kept['clean']:.3f}, robust {kept['robust']:.3f}"
        + "".join(f"; {note}: {' '.join(layers)}" for note, layers in notes.items() if layers)
    )
