"""Options of a reference to weights, as texts and as what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ...errors import BadRequest, unknown
from ...training.recipe import Recipe

_DEFAULTS = {"width": "1", "norm": "batch", "allocation": "uniform", "last_norm": "false"}


def given_options(**options: str) -> dict[str, str]:
    """The options that are no defaults, in their order."""
    return {name: value for name, value in options.items() if value != _DEFAULTS.get(name, "")}


def written(what: str, options: Mapping[str, str]) -> str:
    """A reference with its options behind it."""
    text = ",".join(f"{name}={value}" for name, value in options.items())
    return f"{what}[{text}]" if text else what


def typed_of(settings: Mapping[str, str]) -> dict[str, Any]:
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


def shape_of(shape: str | Sequence[int], text: str) -> tuple[int, int, int]:
    """(channels, height, width) of '3x32x32' or of a sequence. Raises BadRequest."""
    parts = shape.split("x") if isinstance(shape, str) else list(shape)
    if len(parts) != 3 or not all(str(part).isdigit() and int(part) for part in parts):
        raise BadRequest(f"{text}: the shape of an image is missing; add shape=3x32x32, or --data")
    channels, height, breadth = (int(part) for part in parts)
    return channels, height, breadth


def number_of(value: str | int, name: str, text: str) -> int:
    """A whole number from 1. Raises BadRequest."""
    if not str(value).isdigit() or int(value) == 0:
        raise BadRequest(f"{text}: {name} is missing; add {name}=10, or --data")
    return int(value)


def width_of(text: str) -> float:
    """A multiplier of widths. Raises BadRequest."""
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"width is a number, got {text!r}") from None
