"""Check that what a file holds is of the types that the code declares. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63  # of whole numbers, which tables hold in as many bits


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Raise TypeError where a value is not what the field of that name of a dataclass says."""
    check_values(values, _hints(kind))


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise TypeError where a value is not of the type under its name; names without one hold anything."""
    for name, value in values.items():
        if name in hints and not is_of(value, hints[name]):
            wanted = getattr(hints[name], "__name__", hints[name]) if hints[name] in _SCALARS else hints[name]
            raise TypeError(f"{name} is {wanted}, got {repr(value)[:80]}")


_SCALARS = (str, int, float, bool)
_hints = cache(get_type_hints)


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a type such as `int | None`, `tuple[str, ...]` or `dict[str, list[int]]`.

    Numbers are finite, truths are no numbers, and lists count as tuples: JSON and TOML know no others.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(is_of(value, one) for one in arguments)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(is_of(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            is_of(key, arguments[0]) and is_of(item, arguments[1]) for key, item in value.items()
        )
    if hint is Any:
        return True
    if hint is int:
        return type(value) is int and abs(value) < LARGEST
    if hint is float:
        if type(value) is int:
            return abs(value) < LARGEST  # a larger one is no float
        return type(value) is float and math.isfinite(value)
    return value is None if hint is type(None) else isinstance(value, hint)
