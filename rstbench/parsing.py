"""Parse numbers, JSON and TOML from anywhere: what is too long or too deep is malformed. No torch."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

DEEPEST = 64  # tables and lists in one another
LONGEST = 300  # digits of a number
_NUMBER = re.compile(r"[+-]?[0-9_]*(\.[0-9_]*)?(e([+-]?[0-9]{1,3}))?|[+-]?[0-9_]+/[0-9_]+", re.IGNORECASE)


def exact_number(text: str) -> Fraction:
    """Read '8/255', '0.5' or '1e-3' exactly. Raises ValueError.

    Fraction('1e999999999') would compute that power, and int() reads the digits of every script.
    """
    text = text.strip()
    if len(text) > LONGEST or not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no number of up to {LONGEST} digits")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise ValueError(f"{text[:80]!r} divides by 0") from None


def parse_json(text: str | bytes) -> Any:
    """Read JSON. Raises ValueError, also for text that is nested too deep or holds half a character."""
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST}") from None
    if text.count("[") + text.count("{") > DEEPEST or "\\u" in text:
        _check(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML. Raises ValueError, also for text that is nested too deep."""
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST}") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    """Raise ValueError for values nested deeper than DEEPEST, and for halves of a character."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, str):
                item.encode()  # raises UnicodeEncodeError, a ValueError
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {DEEPEST}")
