"""Read and write the options of a reference to weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...errors import BadRequest, unknown
from ...training.recipe import Recipe

_DEFAULTS = {"width": "1", "norm": "batch", "allocation": "uniform", "last_norm": "false"}


def non_default(**options: str) -> dict[str, str]:
    """Return the options that differ from their defaults, in their order."""
    return {name: value for name, value in options.items() if value != _DEFAULTS.get(name, "")}


def reference_text(source: str, options: Mapping[str, str]) -> str:
    """Write a reference with its options in brackets."""
    text = ",".join(f"{name}={value}" for name, value in options.items())
    return f"{source}[{text}]" if text else source


def recipe_settings(settings: Mapping[str, str]) -> dict[str, Any]:
    """Parse the settings of a recipe. Raises BadRequest for unknown names."""
    kinds: dict[str, Any] = {f.name: type(f.default) for f in fields(Recipe)}
    typed: dict[str, Any] = {}
    for name, value in ((name.replace("-", "_"), value) for name, value in settings.items()):
        if name not in kinds:
            raise unknown("setting", name, kinds)
        try:
            typed[name] = value == "true" if kinds[name] is bool else kinds[name](value)
        except ValueError:
            number = "a whole number" if kinds[name] is int else "a number"
            raise BadRequest(f"{name} wants {number}, got {value!r}") from None
    return typed


def positive_int(value: str | int, name: str, text: str) -> int:
    """Parse a whole number from 1. Raises BadRequest."""
    if not str(value).isdigit() or int(value) == 0:
        raise BadRequest(f"{text}: {name} is missing; add {name}=10, or --data")
    return int(value)


def width_multiplier(text: str) -> float:
    """Parse a multiplier of widths. Raises BadRequest."""
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"width is a number, got {text!r}") from None
