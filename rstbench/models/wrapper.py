"""A model that takes part: an ordinary module, its card for the tables, and its digest."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Images
from ..errors import BadRequest
from ..evidence.trial import ModelInfo
from ..networks.normalise import parse_normalisation
from ..plugins import find
from ..references import Reference
from ..tickets.checkpoint import Checkpoint
from ..tickets.switch import Switch
from ..tickets.ticket import Ticket
from ..training.recipe import Recipe
from .identity import module_digest
from .normalise import normalised


@dataclass(frozen=True)
class EvalModel:
    """module: images in [0, 1] to logits; digest: its identity; resumable: whether all that defines
    it could be read; made: the ticket or checkpoint it is, where that is known; members: for a switch;
    unfitted: its probabilities are still to be fitted to held-out images, equal ones until then; fault: why
    nothing can be asked of it, '' where it can; notes: what was assumed about it, for a person to read."""

    module: nn.Module
    card: ModelInfo
    digest: str
    resumable: bool = True
    made: Ticket | Checkpoint | None = None
    members: tuple[EvalModel, ...] = ()
    unfitted: bool = False
    fault: str = ""
    notes: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe | None:
        """How it was made; of a switch, its first member."""
        made = self.members[0].made if self.members else self.made
        return made.recipe if made else None


def wrap(
    module: nn.Module,
    card: ModelInfo,
    *,
    files: Iterable[Path] = (),
    made_by: str = "",
    made: Ticket | Checkpoint | None = None,
    notes: Iterable[str] = (),
) -> EvalModel:
    """An entry for any module; `files` are the user's files that made it, `made_by` the options given,
    `notes` what was assumed about it.

    A `Switch` enters with its members. One that cannot be read enters with its fault. Raises BadRequest where
    it is no `nn.Module`.
    """
    if not isinstance(module, nn.Module):
        raise BadRequest(f"{card.name}: wanted an nn.Module that returns logits, got {type(module).__name__}")
    if isinstance(module, Switch):
        members = [
            wrap(member, ModelInfo(f"{card.name}-{place}", card.kind), files=files, made_by=made_by)
            for place, member in enumerate(module.members)
        ]
        return wrap_switch(members, card.name, module)
    try:
        digest, resumable = module_digest(module, files, made_by)
    except (Exception, SystemExit) as error:  # of a model's own code, or of weights that do not exist yet
        what = " ".join(str(error).split())[:300] or type(error).__name__
        fault = f"{card.name} cannot be read: {what}"
        digest, resumable = hashlib.sha256(uuid.uuid4().bytes).hexdigest(), False
        return EvalModel(module, card, digest, resumable, made, fault=fault)
    return EvalModel(module, card, digest, resumable, made, notes=tuple(notes))


def wrap_switch(members: Sequence[EvalModel], name: str, made: Switch | None = None) -> EvalModel:
    """A switch of these members: the one given, or a uniform one.

    Raises BadRequest for fewer than two, for two alike, and for one that is a switch itself."""
    if any(member.members for member in members):
        raise BadRequest(f"{name}: the members of a switch are single networks, not switches")
    if len({member.digest for member in members}) < len(members):
        raise BadRequest(f"{name}: two members of the switch are the same model")
    module = made or Switch([member.module for member in members])
    digests = tuple(member.digest for member in members)
    methods, networks = {m.card.method for m in members}, {m.card.network for m in members}
    kept = [member.card.kept_weights or 0 for member in members]
    card = ModelInfo(
        name=name,
        kind="switch",
        method=methods.pop() if len(methods) == 1 else "",
        network=networks.pop() if len(networks) == 1 else "",
        kept_weights=sum(kept) if all(kept) else None,
        total_weights=members[0].card.total_weights,
        flags=tuple(sorted({flag for member in members for flag in member.card.flags})),
        members=digests,
        weights=module.weights,
    )
    digest = hashlib.sha256(repr(("switch", digests, module.weights)).encode()).hexdigest()
    resumable = all(member.resumable for member in members)
    fault = next((member.fault for member in members if member.fault), "")
    return EvalModel(module, card, digest, resumable, None, tuple(members), fault=fault)


def load_reference(
    text: str | Reference, images: Images | None = None, *, download: bool = False
) -> EvalModel:
    """`source:id[options]` as an entry. Raises BadRequest for what cannot be named, found or built.

    images: what it will be asked about; download: whether what is missing may be fetched. Sources that want
    to know `classes`, `shape` or `download` are told.
    `[normalize=…]` behind any reference puts the normalisation before the model.
    """
    reference = Reference.parse(text) if isinstance(text, str) else text
    text = str(reference)
    source: Callable[..., Any] = find("models", reference.source)
    options: dict[str, Any] = {**_hints(source, images, download), **reference.options}
    # Sources of networks that this tool builds put it in themselves: it becomes part of a recipe.
    own = "normalize" in inspect.signature(source).parameters
    normalisation = "" if own else options.pop("normalize", "")
    try:
        found = source(reference.id, **options)
    except TypeError as error:
        # Only a refused signature is the request's fault; deeper ones belong to the source.
        if reference.options and "unexpected keyword argument" in str(error):
            raise BadRequest(f"{text!r}: {error}") from error
        raise BadRequest(f"{text!r} cannot be made: {error!r}") from error
    except BadRequest:
        raise
    except (Exception, SystemExit) as error:
        raise BadRequest(f"{text!r} cannot be made: {error!r}") from error
    entry = found if isinstance(found, EvalModel) else wrap(found, ModelInfo(text, "external"))
    return _behind(normalisation, entry, images) if normalisation else entry


def _hints(source: Callable[..., Any], images: Images | None, download: bool) -> dict[str, Any]:
    wanted = inspect.signature(source).parameters
    told: dict[str, Any] = {"download": download}
    if images is not None:
        told |= {"classes": images.classes, "shape": images.shape}
    return {name: value for name, value in told.items() if name in wanted}


def _behind(normalisation: str, entry: EvalModel, images: Images | None) -> EvalModel:
    """The entry with a normalisation as its first layer; another model than without."""
    channels = max(map(len, parse_normalisation(normalisation)))
    shape = entry.made.spec.shape if entry.made else images.shape if images else None
    if shape and channels not in (1, shape[0]):
        raise BadRequest(
            f"{entry.card.name}: normalize={normalisation} is for {channels} channels, images have {shape[0]}"
        )
    if entry.members:
        raise BadRequest(f"{entry.card.name}: the members of a switch are networks of [0, 1] pixels")
    card = replace(entry.card, name=f"{entry.card.name}[normalize={normalisation}]")
    made = wrap(normalised(entry.module, normalisation), card, made_by=entry.digest)
    return replace(made, resumable=made.resumable and entry.resumable, notes=entry.notes)


def named_apart(entries: list[tuple[str, EvalModel]]) -> list[EvalModel]:
    """Entries whose names are unique: where two share one, each takes the text it was asked by."""
    names = [entry.card.name for _, entry in entries]
    return [
        replace(entry, card=replace(entry.card, name=text)) if names.count(entry.card.name) > 1 else entry
        for text, entry in entries
    ]
