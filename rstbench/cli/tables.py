"""Print tables: on a terminal names are cut to its width, and accuracies are coloured."""

from __future__ import annotations

import os
import re
import shutil
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import pandas as pd

Render = Callable[[Mapping[str, "pd.DataFrame"]], Iterable[str]]
NAME_COLUMNS = {"leaderboard": ("model",), "transfer": ("source", "target")}  # whose texts may be cut
# Columns that a narrow terminal does without, and those that the narrowest does.
COSTS = ["forwards", "backwards"]
DETAILS = [*COSTS, "images", "kept_weights", "worst_low", "worst_high"]
SHORTEST, WRAPPED = 12, 24  # letters of a name, at least, and where lines wrap anyway
BOLD, YELLOW = "1", "33"
BLUES = (17, 18, 24, 31, 38)  # of the 256 colours, for accuracies up to 20 %, 40 %, …; on them white
_LEADERBOARD = re.compile(r"\s*rank\b.* worst\b")
_MATRIX = "rows: crafted against"
_PERCENT = re.compile(r"\d+\.\d%")
_FLAGS = re.compile(r"\S+(?: \S+)*")  # columns are two spaces apart


def show(frames: Mapping[str, pd.DataFrame], render: Render) -> None:
    """Print the lines that `render` makes of tables."""
    out = sys.stdout
    if out.isatty():
        frames = {name: _fit(name, frame, render) for name, frame in frames.items()}
    lines = map(printable, render(frames))
    print("\n".join(coloured(lines) if has_colour(out, os.environ) else lines), file=out)


def printable(line: str) -> str:
    """Return a line without control characters, which a name may hold."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def has_colour(out: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether to colour: NO_COLOR decides, then FORCE_COLOR, else whether it is a terminal."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return out.isatty() and environment.get("TERM") != "dumb"


def coloured(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines with robust accuracies shaded, the best of each threat bold, and flags yellow."""
    columns: list[tuple[str, int, int]] = []
    in_matrix = False
    for line in lines:
        if _LEADERBOARD.match(line):
            columns = [(match[0], match.start(), match.end()) for match in re.finditer(r"\S+", line)]
            yield _styled(line, BOLD)
        elif _MATRIX in line or not line:
            columns, in_matrix = [], bool(line)
            yield _styled(line, BOLD) if line else line
        elif in_matrix:
            yield _PERCENT.sub(lambda match: _shaded(match[0]), line)
        else:
            yield _row(line, columns)


def shortened(names: Iterable[str], most: int) -> dict[str, str]:
    """Return each name with at most `most` letters, its middle cut out; different names stay different."""
    short_names: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"
        number = 2
        while short in short_names.values():
            short = f"{name[: most - 1 - len(str(number))]}…{number}"
            number += 1
        short_names[name] = short
    return short_names


def _fit(name: str, frame: pd.DataFrame, render: Render) -> pd.DataFrame:
    """Return a table that fits the terminal, with names as long as possible.

    Where it is too narrow it goes without COSTS, then without DETAILS; where that does not help either, names
    are cut to WRAPPED and lines wrap.
    """
    columns = [column for column in NAME_COLUMNS.get(name, ()) if column in frame]
    longest = max((len(str(value)) for column in columns for value in frame[column]), default=0)
    terminal = shutil.get_terminal_size().columns

    def cut(table: pd.DataFrame, most: int) -> pd.DataFrame:
        short = shortened((str(value) for column in columns for value in frame[column]), most)
        return table.assign(**{column: table[column].map(short) for column in columns})

    def fits(table: pd.DataFrame) -> bool:
        return max(map(len, render({name: table})), default=0) <= terminal

    candidates = [frame.drop(columns=hidden, errors="ignore") for hidden in ([], COSTS, DETAILS)]
    for table in candidates if columns else ():
        if fits(table):
            return table
        if fits(cut(table, SHORTEST)):
            too_long = bisect_left(
                range(longest), True, lo=SHORTEST, key=lambda most: not fits(cut(table, most))
            )
            return cut(table, too_long - 1)
    return cut(candidates[-1], WRAPPED) if columns else frame


def _row(line: str, columns: list[tuple[str, int, int]]) -> str:
    """Return a row of the leaderboard in colour; columns: name, start and end of each in the header."""
    names = [name for name, _, _ in columns]
    if not names:
        return line
    robust = names[names.index("clean") + 1 : names.index("worst") + 1]
    best = line[: columns[0][2]].strip() == "1"
    styled = line
    for name, start, end in reversed(columns):  # from the right, so that positions stay
        if name == "flags" and (flags := _FLAGS.match(line, start)):
            styled = styled[:start] + _styled(flags[0], YELLOW) + styled[flags.end() :]
        if name in robust and (cell := re.search(r"\d+\.\d%\Z", line[:end])) and len(line) >= end:
            shade = _shaded(cell[0], bold=best and name == "worst")
            styled = styled[: cell.start()] + shade + styled[end:]
    return styled


def _shaded(percent: str, *, bold: bool = False) -> str:
    step = min(int(float(percent[:-1]) / 100 * len(BLUES)), len(BLUES) - 1)
    return _styled(percent, f"{BOLD + ';' if bold else ''}38;5;231;48;5;{BLUES[step]}")


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"
