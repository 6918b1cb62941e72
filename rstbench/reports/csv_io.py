"""Write tables as CSV files and read them, so that no text in them runs as a formula.

Spreadsheet programs take a cell that begins with = + - @, a tab or a line's end for a formula. Such a text,
a model's name say, gets an apostrophe in front, as OWASP advises
(https://owasp.org/www-community/attacks/CSV_Injection); `read_table` takes it away again.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import BadFile, one_line
from ..limits import TEXT_SHARE, check_file
from .leaderboard import KINDS

# Columns that hold text, even where it looks like a number, and whole numbers; all others hold numbers.
TEXT = {
    "source", "target", "attack", "early_stop", "members", "weights", "rung", "knows_switch", "setting",
    "ratio", "norm", "eps", "baseline", "role", "verdict", "on_front", "url", "page", "read", "protocol",
    "note", "paper",
    *(name for name, kind in KINDS.items() if kind == "text"),
}  # fmt: skip
INTEGERS = {"seeds", "class", *(name for name, kind in KINDS.items() if kind == "integer")}
# A text that has the apostrophes of its own before the sign gets one more, so that nothing is lost.
_FORMULA, _GUARDED = re.compile("'*[=+@\\-\t\r\n]"), re.compile("'+[=+@\\-\t\r\n]")


def cell(value: Any) -> str:
    """Return the text of a cell: '' for what is missing or no finite number."""
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) or not math.isfinite(value) else str(value)


def as_csv(frame: pd.DataFrame) -> bytes:
    """Return a table as UTF-8 text after RFC 4180, with lines ending in a line feed."""
    rows = [list(frame.columns), *frame.itertuples(index=False, name=None)]
    return "".join(",".join(map(_field, row)) + "\n" for row in rows).encode()


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV table of this tool as it was written.

    Texts come without what made them safe for spreadsheets, '' where there is none; numbers with all their
    digits, missing where the cell is empty.

    Args:
        path: A CSV file that `evaluate` or `report` wrote.

    Returns:
        The table.

    Raises:
        BadFile: For a missing file, or one that is no such table.

    Example:
        >>> import rstbench
        >>> rstbench.read_table("nowhere.csv")
        Traceback (most recent call last):
            ...
        rstbench.errors.BadFile: no table nowhere.csv; `report` writes those that have something to tell
    """
    try:
        check_file(Path(path), TEXT_SHARE)
        with open(path, encoding="utf-8", newline="") as file:  # pandas before 3.1 loses NUL characters
            header, *rows = [row or [""] for row in csv.reader(file, strict=True)]
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        names = [_unguarded(name) for name in header]
        return pd.DataFrame({n: _read(n, list(texts)) for n, texts in zip(names, columns, strict=True)})
    except FileNotFoundError:
        raise BadFile(f"no table {path}; `report` writes those that have something to tell") from None
    except (OSError, ValueError, csv.Error) as error:
        raise BadFile(f"{path} is no table of this tool: {one_line(error)}") from error


def _read(name: str, texts: list[str]) -> pd.Series:
    if name in TEXT:
        return pd.Series([_unguarded(text) for text in texts], dtype=str)
    if name in INTEGERS:
        return pd.Series([int(text) if text else None for text in texts], dtype="Int64")
    return pd.Series([float(text) if text else math.nan for text in texts], dtype=float)


def _field(value: Any) -> str:
    text = cell(value)
    if isinstance(value, str) and _FORMULA.match(value):
        text = f"'{text}"
    # The semicolon separates cells where a comma is the decimal point.
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',;"\t\r\n') else text


def _unguarded(text: str) -> str:
    return text[1:] if _GUARDED.match(text) else text
