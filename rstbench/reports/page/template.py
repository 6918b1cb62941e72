"""Load the templates of pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ..palette import PAGE
from ..statistics import INTERVAL, LEVEL

PAGE_FILE = "index.html"
TEMPLATES = Path(__file__).parent / "templates"


@cache
def template(name: str) -> Template:
    """Return a template in which every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"palette": PAGE, "interval": INTERVAL, "level": LEVEL}
    environment.filters |= {"percent": _percent, "count": _count}
    return environment.get_template(name)


def _percent(value: Any, digits: int = 1) -> str:
    """Return 0.8625 as '86.2', a missing value as ''."""
    return "" if value is None or pd.isna(value) else f"{100 * float(value):.{digits}f}"


def _count(value: Any) -> str:
    """Return 11526 as '11,526', a missing value as ''."""
    return "" if value is None or pd.isna(value) else f"{int(value):,}"


def records(frame: pd.DataFrame, missing: object) -> list[dict[str, Any]]:
    """Return the rows as dictionaries, with `missing` in empty cells."""
    plain = frame.astype(object).where(frame.notna(), missing)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]


def distinct(board: pd.DataFrame | None, column: str) -> list[str]:
    return [] if board is None else [str(value) for value in board[column].unique()]
