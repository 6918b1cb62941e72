"""Render a table as Markdown, LaTeX, HTML, JSON or Parquet."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import pandas as pd

from .csv_io import TEXT, cell

_IN_MARKDOWN = re.compile(r"([\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w))")
# A bracket or star at the beginning of a line would belong to the line's end before it.
_IN_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def markdown(name: str, frame: pd.DataFrame) -> bytes:
    """Render a table as GitHub reads it; pandas would need one more package for it."""
    head = [_markdown(str(column)) for column in frame.columns]
    rules = [":--" if column in TEXT else "--:" for column in frame.columns]
    rows = [[_markdown(cell(value)) for value in row] for row in _rows(frame)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, rules, *rows]).encode()


def latex(name: str, frame: pd.DataFrame) -> bytes:
    """Render a tabular to \\input into a document; it needs no package."""
    head = [_latex(str(column)) for column in frame.columns]
    body = [[_latex(cell(value)) for value in row] for row in _rows(frame)]
    lines = [f"{' & '.join(row)} \\\\" for row in [head, *body]]
    sides = "".join("l" if column in TEXT else "r" for column in frame.columns)
    every = [f"\\begin{{tabular}}{{{sides}}}", lines[0], "\\hline", *lines[1:], "\\end{tabular}"]
    return ("\n".join(every) + "\n").encode()


def page(name: str, frame: pd.DataFrame) -> bytes:
    """Render a page with nothing but the table."""
    lines = [
        "<!DOCTYPE html>",
        f'<html lang="en"><meta charset="utf-8"><title>{html.escape(name)}</title>',
        "<style>td, th { padding: 0 0.5em; text-align: left } .n { text-align: right }</style>",
        "<table>",
        _html_row("th", frame.columns, frame.columns),
        *(_html_row("td", frame.columns, row) for row in _rows(frame)),
        "</table></html>",
    ]
    return ("\n".join(lines) + "\n").encode()


def records(name: str, frame: pd.DataFrame) -> bytes:
    """Render a list with one object a row; null where a cell is empty."""
    rows = [dict(zip(frame.columns, map(_plain, row), strict=True)) for row in _rows(frame)]
    return (json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def parquet(name: str, frame: pd.DataFrame) -> bytes:
    """Render the table with its types, for pandas, R, DuckDB and others."""
    typed = frame.assign(
        **{column: pd.to_numeric(frame[column]) for column in frame.columns if column not in TEXT}
    )
    file = BytesIO()
    typed.to_parquet(file, engine="pyarrow", index=False)
    return file.getvalue()


def _rows(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    yield from frame.itertuples(index=False, name=None)


def _markdown(text: str) -> str:
    return _IN_MARKDOWN.sub(r"\\\1", " ".join(text.splitlines()))


def _latex(text: str) -> str:
    return "".join(_IN_LATEX.get(sign, sign) for sign in " ".join(text.splitlines()))


def _html_row(tag: str, columns: Iterable[str], values: Iterable[Any]) -> str:
    cells = (
        f"<{tag}{'' if column in TEXT else ' class=n'}>{html.escape(cell(value))}</{tag}>"
        for column, value in zip(columns, values, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if cell(value) == "":
        return None
    return value.item() if hasattr(value, "item") else value
