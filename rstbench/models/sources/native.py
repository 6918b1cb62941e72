"""Models of this tool's own files: `ticket:FILE`, `checkpoint:FILE`, `switch:FILE+FILE+…`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ...errors import BadRequest
from ...evidence.trial import ModelInfo
from ...flags import SELECTED_ON_TEST, UNLEARNT_MASK
from ...tickets.checkpoint import Checkpoint
from ...tickets.switch import Switch
from ...tickets.ticket import Ticket
from ...training.recipe import Recipe
from ..wrapper import EvalModel, wrap, wrap_switch

BEST = "best"


def ticket(id: str) -> EvalModel:
    """Load `ticket:FILE`."""
    return ticket_model(Ticket.load(Path(id).expanduser()), Path(id).stem)


def ticket_model(ticket: Ticket, name: str) -> EvalModel:
    """Wrap a ticket for evaluation."""
    return _eval_model(ticket, name, "ticket", method_of(ticket.recipe))


def method_of(recipe: Recipe) -> str:
    """Return the method of a ticket for the tables.

    'edge-popup' is the search without an adversary, 'rtt' the search among trained weights (robust trained
    tickets).
    """
    name = recipe.method.partition(":")[0]
    if name != "rst":
        return name
    if recipe.origin:
        return "rtt"
    return "rst" if recipe.adversary != "none" else "edge-popup"


def checkpoint(id: str) -> EvalModel:
    """Load `checkpoint:FILE`."""
    return checkpoint_model(Checkpoint.load(Path(id).expanduser()), Path(id).stem)


def checkpoint_model(checkpoint: Checkpoint, name: str) -> EvalModel:
    """Wrap a trained network for evaluation."""
    is_adversarial = checkpoint.recipe.adversary != "none"
    method = "adversarial-training" if is_adversarial else "natural-training"
    return _eval_model(checkpoint, name, "trained", method)


def _eval_model(artifact: Ticket | Checkpoint, name: str, kind: str, method: str) -> EvalModel:
    info = ModelInfo(
        name=name,
        kind=kind,
        method=method,
        network=str(artifact.spec),
        remaining=float(artifact.remaining),
        kept_weights=artifact.kept_weights,
        total_weights=artifact.total_weights,
        flags=_flags(artifact),
    )
    return wrap(artifact.module(), info, artifact=artifact)


def _split_paths(text: str) -> list[Path]:
    """Split A+B+… into files, whose own paths may hold a '+'.

    Raises BadRequest where the text can be read in two ways.
    """
    parts = text.split("+")

    def paths(start: int) -> Iterator[tuple[int, Path]]:
        """Yield the files that begin at a part, each with the index of the part after it."""
        for end in range(start + 1, len(parts) + 1):
            path = Path("+".join(parts[start:end])).expanduser()
            if path.is_file():
                yield end, path

    def readings(start: int) -> Iterator[list[Path]]:
        if start == len(parts):
            yield []
        elif not parts[start]:
            yield from readings(start + 1)
        for end, path in paths(start):
            yield from ([path, *rest] for rest in readings(end))

    possible = list(islice(readings(0), 2))
    if len(possible) > 1:
        raise BadRequest(
            f"{text!r} names {' or '.join(' and '.join(map(str, files)) for files in possible)}; rename one"
        )
    if possible:
        return possible[0]
    start, files = 0, list[Path]()  # one is missing, which reading it reports
    while start < len(parts):
        start, path = next(paths(start), (start + 1, Path(parts[start]).expanduser()))
        files += [path] if path.name else []
    return files


def _flags(artifact: Ticket | Checkpoint) -> tuple[str, ...]:
    conditions = {
        SELECTED_ON_TEST: bool(artifact.facts.get("on_test")),
        UNLEARNT_MASK: isinstance(artifact, Ticket) and artifact.unlearnt,
    }
    return tuple(flag.name for flag, raised in conditions.items() if raised)


def switch(id: str, weights: str = "") -> EvalModel:
    """Load `switch:FILE+FILE+…[weights=0.2+0.8]`: tickets of one random network and their probabilities.

    weights: equal ones by default; `best` leaves them to be fitted to training images.
    """
    paths = _split_paths(id)
    tickets = [Ticket.load(path) for path in paths]
    if (networks := len({ticket.random_digest for ticket in tickets})) > 1:
        raise BadRequest(
            f"the tickets of a switch share one random network; those of {id!r} come from {networks}"
        )
    members = [ticket_model(ticket, path.stem) for ticket, path in zip(tickets, paths, strict=True)]
    name = f"switch:{'+'.join(path.stem for path in paths)}"
    if not weights:
        return wrap_switch(members, name)
    if weights == BEST:
        return replace(wrap_switch(members, f"{name}[weights={BEST}]"), unfitted=True)
    try:
        probabilities = [float(weight) for weight in weights.split("+")]
    except ValueError:
        raise BadRequest(f"weights of a switch read 0.2+0.8 or {BEST}, got {weights!r}") from None
    module = Switch([member.module for member in members], probabilities)
    return wrap_switch(members, f"{name}[weights={weights}]", module)
