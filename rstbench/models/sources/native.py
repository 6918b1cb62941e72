"""What this tool made: tickets, checkpoints, and switches of tickets."""

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
    """`ticket:FILE`."""
    return ticket_entry(Ticket.load(Path(id).expanduser()), Path(id).stem)


def ticket_entry(found: Ticket, name: str) -> EvalModel:
    """A ticket as a module, with its card."""
    return _entry(found, name, "ticket", method_of(found.recipe))


def method_of(recipe: Recipe) -> str:
    """How a ticket was found, for the tables: 'edge-popup' is the search without an adversary, 'rtt' the
    same search among trained weights (robust trained tickets), whatever they were trained for."""
    name = recipe.method.partition(":")[0]
    if name != "rst":
        return name
    if recipe.origin:
        return "rtt"
    return "rst" if recipe.adversary != "none" else "edge-popup"


def checkpoint(id: str) -> EvalModel:
    """`checkpoint:FILE`."""
    return checkpoint_entry(Checkpoint.load(Path(id).expanduser()), Path(id).stem)


def checkpoint_entry(found: Checkpoint, name: str) -> EvalModel:
    """A trained network as a module, with its card."""
    adversarial = found.recipe.adversary != "none"
    return _entry(found, name, "trained", "adversarial-training" if adversarial else "natural-training")


def _entry(found: Ticket | Checkpoint, name: str, kind: str, method: str) -> EvalModel:
    card = ModelInfo(
        name=name,
        kind=kind,
        method=method,
        network=str(found.spec),
        remaining=float(found.remaining),
        kept_weights=found.kept_weights,
        total_weights=found.total_weights,
        flags=_flags(found),
    )
    return wrap(found.module(), card, made=found)


def _files(text: str) -> list[Path]:
    """The files of A+B+…; a '+' inside a file's own path is none that separates. Raises BadRequest where the
    text can be read in two ways."""
    parts = text.split("+")

    def paths(start: int) -> Iterator[tuple[int, Path]]:
        """The files that begin at a part, each with the part after it."""
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

    found = list(islice(readings(0), 2))
    if len(found) > 1:
        raise BadRequest(
            f"{text!r} names {' or '.join(' and '.join(map(str, one)) for one in found)}; rename one"
        )
    if found:
        return found[0]
    start, files = 0, []  # one is missing: whoever reads it says so
    while start < len(parts):
        start, path = next(paths(start), (start + 1, Path(parts[start]).expanduser()))
        files += [path] if path.name else []
    return files


def _flags(found: Ticket | Checkpoint) -> tuple[str, ...]:
    alarms = {
        SELECTED_ON_TEST: bool(found.facts.get("on_test")),
        UNLEARNT_MASK: isinstance(found, Ticket) and found.unlearnt,
    }
    return tuple(flag.name for flag, raised in alarms.items() if raised)


def switch(id: str, weights: str = "") -> EvalModel:
    """`switch:FILE+FILE+…[weights=0.2+0.8]`: tickets of one random network, drawn with these probabilities,
    equal ones where none are given; `weights=best` leaves them to who has the training images."""
    paths = _files(id)
    tickets = [Ticket.load(path) for path in paths]
    if len({found.random_digest for found in tickets}) > 1:
        raise BadRequest(
            f"the tickets of a switch share one random network; those of {id!r} come from "
            f"{len({found.random_digest for found in tickets})}"
        )
    members = [ticket_entry(found, path.stem) for found, path in zip(tickets, paths, strict=True)]
    name = f"switch:{'+'.join(path.stem for path in paths)}"
    if not weights:
        return wrap_switch(members, name)
    if weights == BEST:
        return replace(wrap_switch(members, f"{name}[weights={BEST}]"), unfitted=True)
    try:
        shares = [float(share) for share in weights.split("+")]
    except ValueError:
        raise BadRequest(f"weights of a switch read 0.2+0.8 or {BEST}, got {weights!r}") from None
    made = Switch([member.module for member in members], shares)
    return wrap_switch(members, f"{name}[weights={weights}]", made)
