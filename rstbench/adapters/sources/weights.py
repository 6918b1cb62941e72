"""Bare state dicts: `weights:FILE[arch=NETWORK]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import BadRequest, unknown
from ...harness.trial import Card
from ...tickets.networks import NetworkSpec, build, prunable
from ...tickets.recipe import Recipe
from ..entry import Entry, enter, load_entry
from ..foreign import Foreign, as_ticket, is_foreign, read_foreign
from ..normalise import normalised
from ..state import put_state, read_state
from .own import ticket_entry

_DEFAULTS = {"width": "1", "norm": "batch", "allocation": "uniform", "last_norm": "false"}


def weights(
    id: str,
    arch: str = "",
    width: str = "1",
    norm: str = "batch",
    classes: str | int = "",
    shape: str | Sequence[int] = "",
    remaining: str = "",
    allocation: str = "uniform",
    last_norm: str = "false",
    normalize: str = "",
    recipe: str = "",
    **settings: str,
) -> Entry:
    """`weights:FILE[arch=resnet18,norm=affine]` for a network of this tool, `[arch=timm:NAME]` or
    `[arch=torchvision:NAME]` for a library's.

    classes and shape (channels x height x width, such as 3x32x32) are those of the data unless given. Files
    that hold scores or masks beside the weights, as other projects' tickets do, become dense (see
    `adapters.foreign`); scores need the kept fraction, `[remaining=0.05]`. Other names are matched by order.
    normalize puts that layer first. With `[recipe=paper-cifar,data=cifar10]`, and more settings of a recipe,
    scores over a random network of this tool become a `Ticket`. Raises BadRequest with the names that differ.
    """
    if not arch:
        raise BadRequest(f"weights:{id} are weights only; name their network, [arch=resnet18]")
    given = {"arch": arch, "width": width, "norm": norm, "remaining": remaining, "allocation": allocation,
             "last_norm": last_norm, "normalize": normalize}  # fmt: skip
    told = [f"{name}={value}" for name, value in given.items() if value != _DEFAULTS.get(name, "")]
    state, text = read_state(Path(id)), f"weights:{id}[{','.join(told)}]"
    if last_norm not in ("true", "false"):
        raise BadRequest(f"{text}: last_norm is true or false")
    ordered = Path(id).suffix != ".safetensors"  # which lists its tensors by the alphabet
    if not is_foreign(state) and (remaining or recipe):
        raise BadRequest(f"{text}: remaining and recipe go with files that hold scores, this one has none")
    if settings and not recipe:
        raise BadRequest(f"{text}: {', '.join(settings)} go with recipe=NAME, or are unknown")
    found = read_foreign(state, remaining, allocation) if is_foreign(state) else Foreign(state, {})
    if arch.partition(":")[0] in ("torchvision", "timm"):
        random = load_entry(f"{arch}[classes={classes}]" if classes else arch)
        flags = _flags(found, random.module)
        module = put_state(random.module, found.like(random.module, ordered=ordered).dense(), text)
        module = normalised(module, normalize) if normalize else module
        return enter(module, Card(text, "external", flags=flags), made_by=text)
    size = (_shape(shape, text), _number(classes, "classes", text), _width(width), norm)
    bare = NetworkSpec(arch, *size, last_norm=last_norm == "true")
    spec = replace(bare, normalize=normalize)
    module = build(spec)
    own = module.state_dict()
    # A normalised network is its layer and the rest; a file holds both, or the rest alone.
    alone = bool(normalize) and not set(found.state) <= set(own)
    held = module.get_submodule("1") if alone else module
    flags = _flags(found, held)
    found = found.like(held, ordered=ordered)
    if alone:
        found = found.behind("1.", {name: own[name] for name in own if name.startswith("0.")})
    put_state(module, found.dense(), text)
    if recipe:
        made = as_ticket(
            found, spec, remaining, {**_typed(settings), "recipe": recipe, "allocation": allocation}
        )
        entry = ticket_entry(made, Path(id).stem)
        return replace(entry, card=replace(entry.card, flags=(*entry.card.flags, *flags)))
    total = sum(weight.numel() for weight in prunable(module).values())
    kept = sum(int(weight.count_nonzero()) for weight in prunable(module).values())
    card = Card(text, "external", "", str(spec), round(kept / total, 6), kept, total, flags)
    return enter(module, card, made_by=str(spec))


def _flags(found: Foreign, module: nn.Module) -> tuple[str, ...]:
    """The alarm for names that only their order tells."""
    return () if set(found.state) <= set(module.state_dict()) else ("matched-by-order",)


def _typed(settings: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a recipe out of their text. Raises BadRequest for unknown names."""
    kinds: dict[str, Any] = {f.name: type(f.default) for f in fields(Recipe)}
    typed: dict[str, Any] = {}
    for name, value in ((name.replace("-", "_"), value) for name, value in settings.items()):
        if name not in kinds:
            raise unknown("setting", name, kinds)
        try:
            typed[name] = value == "true" if kinds[name] is bool else kinds[name](value)
        except ValueError:
            wanted = "a whole number" if kinds[name] is int else "a number"
            raise BadRequest(f"{name} wants {wanted}, got {value!r}") from None
    return typed


def _shape(shape: str | Sequence[int], text: str) -> tuple[int, int, int]:
    parts = shape.split("x") if isinstance(shape, str) else list(shape)
    if len(parts) != 3 or not all(str(part).isdigit() and int(part) for part in parts):
        raise BadRequest(f"{text}: the shape of an image is missing; add shape=3x32x32, or --data")
    channels, height, breadth = (int(part) for part in parts)
    return channels, height, breadth


def _number(value: str | int, name: str, text: str) -> int:
    if not str(value).isdigit() or int(value) == 0:
        raise BadRequest(f"{text}: {name} is missing; add {name}=10, or --data")
    return int(value)


def _width(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"width is a number, got {text!r}") from None
