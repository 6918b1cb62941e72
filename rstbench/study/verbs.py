"""The verbs `draw` and `train`: one table of a study, made by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from ..harness.bench import pick_device
from ..harness.progress import Progress
from ..harness.store import Store
from ..tickets.recipe import recipe_for
from ..tickets.ticket import Ticket
from ..tickets.train import Checkpoint
from .make import Workshop, check_recipe, start_from, write_history
from .plan import refuse_fixed
from .run import Options

Listed = list[tuple[Path, str]]


def draw_tickets(
    settings: Mapping[str, Any],
    remaining: Sequence[str],
    options: Options,
    progress: Progress,
    *,
    store: bool = True,
) -> Listed:
    """Draws one ticket a ratio into `out/<network>-<remaining>.safetensors`; (path, summary) of each."""
    if not remaining:
        raise BadRequest("--remaining wants kept fractions such as 0.05,0.1")
    recipe = recipe_for(dict(settings))
    workshop = Workshop(options.root, pick_device(options.device), progress)
    lesson = workshop.lesson(recipe)
    check_recipe(recipe, remaining, lesson.train)
    made: list[tuple[str, Ticket | Checkpoint]] = []
    listed: Listed = []
    with Store(options.out).alone():
        for ratio in remaining:
            name = f"{recipe.network}-{ratio}"
            path = options.out / f"{name}.safetensors"
            ticket = workshop.draw(recipe, ratio, path, lesson, store_weights=store)
            made.append((name, ticket))
            listed.append((path, _summary(ticket)))
        # The folder may hold tickets of earlier commands; their histories stay.
        others = [path for path in sorted(options.out.glob("*.safetensors")) if path not in dict(listed)]
        known = [(path.stem, Ticket.load(path)) for path in others]
        write_history(options.out, [*known, *made])
    return listed


def train_network(settings: Mapping[str, Any], start: str, options: Options, progress: Progress) -> Listed:
    """Trains one network into `out/<network>.safetensors`, or a ticket's into `<network>-<remaining>`."""
    if start:
        refuse_fixed(settings, "")
        learnt_from = Ticket.load(Path(start.removeprefix("ticket:")).expanduser()).recipe
        settings = {"data": learnt_from.data, "threat": learnt_from.threat, **settings}
    recipe, ticket = start_from(start, recipe_for({**settings, "method": "training"}))
    workshop = Workshop(options.root, pick_device(options.device), progress)
    lesson = workshop.lesson(recipe)
    check_recipe(recipe, (), lesson.train, training=True)
    if ticket and ticket.spec.shape != lesson.train.shape:
        raise BadRequest(
            f"the ticket takes images {ticket.spec.shape}, {recipe.data} has {lesson.train.shape}"
        )
    name = f"{recipe.network}-{ticket.remaining}-{recipe.weights}" if ticket else recipe.network
    path = options.out / f"{name}.safetensors"
    with Store(options.out).alone():
        checkpoint = workshop.train(recipe, path, lesson, ticket)
        write_history(options.out, [(name, checkpoint)])
    return [(path, _summary(checkpoint))]


def _summary(made: Ticket | Checkpoint) -> str:
    kept = made.facts["kept_epoch"]
    return (
        f"{made.kept_weights} of {made.total_weights} weights, epoch {kept['epoch']}, held-out clean "
        f"{kept['clean']:.3f}, robust {kept['robust']:.3f}"
    )
