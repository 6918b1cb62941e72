"""The evaluated model: an ordinary module with its info for the tables and its digest.

What makes two models the same is told in identity.py, by `module_digest` and `switch_digest`.
"""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from ..errors import BadRequest, one_line
from ..evidence.trial import ModelInfo
from ..networks.normalise import parse_normalisation
from ..plugins import find
from ..references import Reference
from ..tickets.checkpoint import Checkpoint
from ..tickets.switch import Switch
from ..tickets.ticket import Ticket
from ..training.recipe import Recipe
from .identity import module_digest, switch_digest
from .normalise import normalised


class Kind(Protocol):
    """What a model is told of the images it will be evaluated on."""

    @property
    def classes(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...


@dataclass(frozen=True)
class KindOfImages:
    """A `Kind` without the images; shape: (channels, height, width)."""

    classes: int
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Origin:
    """What loads a model again: its reference, and what kind of images it was loaded for."""

    reference: str
    images: KindOfImages | None = None


@dataclass(frozen=True)
class EvalModel:
    """A model under evaluation.

    module: images in [0, 1] to logits; info: its name and counts in the tables; digest: its identity;
    resumable: whether all that defines it could be read; artifact: the ticket or checkpoint behind it, where
    that is known; members: the members of a switch; unfitted: whether its probabilities are still to be
    fitted to held-out images (equal ones until then); fault: why it cannot be evaluated, '' where it can;
    notes: what was assumed about it, for a person to read; origin: what loads it again, where that is known.
    """

    module: nn.Module
    info: ModelInfo
    digest: str
    resumable: bool = True
    artifact: Ticket | Checkpoint | None = None
    members: tuple[EvalModel, ...] = ()
    unfitted: bool = False
    fault: str = ""
    notes: tuple[str, ...] = ()
    origin: Origin | None = None

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the model, or of a switch's first member."""
        artifact = self.members[0].artifact if self.members else self.artifact
        return artifact.recipe if artifact else None


def wrap(
    module: nn.Module,
    info: ModelInfo,
    *,
    files: Iterable[Path] = (),
    made_by: str = "",
    artifact: Ticket | Checkpoint | None = None,
    notes: Iterable[str] = (),
) -> EvalModel:
    """Wrap any module for evaluation; a `Switch` together with its members.

    files: the user's files that define it; made_by: the options it was made with (both enter the digest). A
    module that cannot be read is wrapped with its fault. Raises BadRequest for anything but an `nn.Module`.
    """
    if not isinstance(module, nn.Module):
        raise BadRequest(f"{info.name}: wanted an nn.Module that returns logits, got {type(module).__name__}")
    if isinstance(module, Switch):
        members = [
            wrap(member, ModelInfo(f"{info.name}-{index}", info.kind), files=files, made_by=made_by)
            for index, member in enumerate(module.members)
        ]
        return wrap_switch(members, info.name, module)
    try:
        digest, resumable = module_digest(module, files, made_by)
    except (Exception, SystemExit) as error:  # of a model's own code, or of weights that do not exist yet
        fault = f"{info.name} cannot be read: {one_line(error, 300)}"
        digest = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        return EvalModel(module, info, digest, False, artifact, fault=fault)
    return EvalModel(module, info, digest, resumable, artifact, notes=tuple(notes))


def wrap_switch(members: Sequence[EvalModel], name: str, switch: Switch | None = None) -> EvalModel:
    """Wrap the given switch of these members, or a uniform one.

    Raises BadRequest for fewer than two members, for two equal ones, and for one that is a switch itself.
    """
    if any(member.members for member in members):
        raise BadRequest(f"{name}: the members of a switch are single networks, not switches")
    if len({member.digest for member in members}) < len(members):
        raise BadRequest(f"{name}: two members of the switch are the same model")
    module = switch or Switch([member.module for member in members])
    digests = tuple(member.digest for member in members)
    methods, networks = {m.info.method for m in members}, {m.info.network for m in members}
    kept = [member.info.kept_weights or 0 for member in members]
    info = ModelInfo(
        name=name,
        kind="switch",
        method=methods.pop() if len(methods) == 1 else "",
        network=networks.pop() if len(networks) == 1 else "",
        kept_weights=sum(kept) if all(kept) else None,
        total_weights=members[0].info.total_weights,
        flags=tuple(sorted({flag for member in members for flag in member.info.flags})),
        members=digests,
        weights=module.weights,
    )
    digest = switch_digest(digests, module.weights)
    resumable = all(member.resumable for member in members)
    fault = next((member.fault for member in members if member.fault), "")
    return EvalModel(module, info, digest, resumable, None, tuple(members), fault=fault)


def load_reference(text: str | Reference, images: Kind | None = None, *, download: bool = False) -> EvalModel:
    """Load `source:id[options]`; `[normalize=…]` puts a normalisation before any model.

    images: what it will be evaluated on; sources with parameters `classes`, `shape` or `download` receive
    them. download: whether missing files may be fetched. Raises BadRequest for what cannot be named, found
    or built.
    """
    reference = Reference.parse(text) if isinstance(text, str) else text
    text = str(reference)
    source: Callable[..., Any] = find("models", reference.source)
    options: dict[str, Any] = {**_data_options(source, images, download), **reference.options}
    # Sources of networks that this tool builds put it in themselves: it becomes part of a recipe.
    normalises_itself = "normalize" in inspect.signature(source).parameters
    normalisation = "" if normalises_itself else options.pop("normalize", "")
    try:
        loaded = source(reference.id, **options)
    except BadRequest:
        raise
    except (Exception, SystemExit) as error:
        # Only a refused signature is the request's fault; deeper errors belong to the source.
        refused = isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
        problem = f": {error}" if refused and reference.options else f" cannot be made: {error!r}"
        raise BadRequest(f"{text!r}{problem}") from error
    model = loaded if isinstance(loaded, EvalModel) else wrap(loaded, ModelInfo(text, "external"))
    model = _with_normalisation(model, normalisation, images) if normalisation else model
    kind = KindOfImages(images.classes, images.shape) if images is not None else None
    return replace(model, origin=Origin(text, kind))


def _data_options(source: Callable[..., Any], images: Kind | None, download: bool) -> dict[str, Any]:
    """Return the facts about the data that a source has parameters for."""
    parameters = inspect.signature(source).parameters
    facts: dict[str, Any] = {"download": download}
    if images is not None:
        facts |= {"classes": images.classes, "shape": images.shape}
    return {name: value for name, value in facts.items() if name in parameters}


def _with_normalisation(model: EvalModel, normalisation: str, images: Kind | None) -> EvalModel:
    """Put a normalisation before a model, which makes it another model."""
    channels = max(map(len, parse_normalisation(normalisation)))
    shape = model.artifact.spec.shape if model.artifact else images.shape if images is not None else None
    if shape and channels not in (1, shape[0]):
        raise BadRequest(
            f"{model.info.name}: normalize={normalisation} is for {channels} channels, images have {shape[0]}"
        )
    if model.members:
        raise BadRequest(f"{model.info.name}: the members of a switch are networks of [0, 1] pixels")
    info = replace(model.info, name=f"{model.info.name}[normalize={normalisation}]")
    wrapped = wrap(normalised(model.module, normalisation), info, made_by=model.digest)
    return replace(wrapped, resumable=wrapped.resumable and model.resumable, notes=model.notes)


def with_unique_names(models: list[tuple[str, EvalModel]]) -> list[EvalModel]:
    """Return the models of (reference, model) pairs, those that share a name under their references."""
    names = [model.info.name for _, model in models]
    return [
        replace(model, info=replace(model.info, name=text)) if names.count(model.info.name) > 1 else model
        for text, model in models
    ]
