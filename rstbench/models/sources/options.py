"""Read and write the options of references to weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...attacks.spec import read_options
from ...errors import BadRequest
from ...training.recipe import Recipe


@dataclass(frozen=True)
class WeightOptions:
    """Hold the options of `weights:FILE[…]` as texts, in the order in which references show them.

    remaining: the kept fraction, which scores need; bias: 'last' for a network with one on its last layer, by
    default as in the file; key: of the network in a training checkpoint; prefix: of its names; without: names
    or prefixes of tensors to ignore, joined by '+'; match: 'order' where the names are of no known code
    (see `checkpoints.layer_names`) and the network has branches; shortcut: see `NetworkSpec`.
    """

    arch: str = ""
    width: str = "1"
    norm: str = "batch"
    remaining: str = ""
    allocation: str = "uniform"
    last_norm: str = "false"
    normalize: str = ""
    bias: str = ""
    key: str = ""
    prefix: str = ""
    without: str = ""
    scores: str = ""
    match: str = ""
    in_chans: str = ""
    transform_input: str = ""
    shortcut: str = ""

    def given(self) -> dict[str, str]:
        """Return the options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def reference_text(source: str, options: Mapping[str, str]) -> str:
    """Write a reference with its options in brackets."""
    text = ",".join(f"{name}={value}" for name, value in options.items())
    return f"{source}[{text}]" if text else source


def recipe_settings(settings: Mapping[str, str]) -> dict[str, Any]:
    """Parse the settings of a recipe. Raises BadRequest for unknown names."""
    return read_options(Recipe, "recipe", {name.replace("-", "_"): text for name, text in settings.items()})


def positive_int(value: str | int, name: str, text: str) -> int:
    """Parse a whole number from 1. Raises BadRequest."""
    if not str(value).isdigit() or int(value) == 0:
        given = f", got {value!r}" if value else ""
        raise BadRequest(f"{text}: {name} is missing; add {name}=10, or --data{given}")
    return int(value)


def width_multiplier(text: str) -> float:
    """Parse a multiplier of widths. Raises BadRequest."""
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"width is a number, got {text!r}") from None
