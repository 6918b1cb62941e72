"""Tables on a terminal: names cut to its width, and colour where it shows colour.

Both work on any text: elsewhere it is printed as it is.
"""

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

Text = Callable[[Mapping[str, "pd.DataFrame"]], Iterable[str]]
NAMES = {"leaderboard": ("model",), "transfer": ("source", "target")}  # what may be cut, by table
COSTS = ["forwards", "backwards"]  # what a narrow terminal does without, and what the narrowest
DETAILS = [*COSTS, "images", "kept_weights", "worst_low", "worst_high"]
SHORTEST, BROKEN = 12, 24
BOLD, YELLOW = "1", "33"
BLUES = (17, 18, 24, 31, 38)  # of the 256 colours, for accuracies up to 20 %, 40 %, …; on them white
_BOARD = re.compile(r"\s*rank\b.* worst\b")
_MATRIX = "rows: crafted against"
_PERCENT = re.compile(r"\d+\.\d%")
_FLAGS = re.compile(r"\S+(?: \S+)*")  # columns are two spaces apart


def show(frames: Mapping[str, pd.DataFrame], text: Text) -> None:
    """Prints what `text` makes of tables."""
    out = sys.stdout
    if out.isatty():
        frames = {name: _fitted(name, frame, text) for name, frame in frames.items()}
    lines = map(printable, text(frames))
    print("\n".join(coloured(lines) if has_colour(out, os.environ) else lines), file=out)


def printable(line: str) -> str:
    """One line without characters that would move or colour what is around it: a name may hold any."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def has_colour(out: TextIO, environment: Mapping[str, str]) -> bool:
    """NO_COLOR and FORCE_COLOR decide, in this order, where they are set; else whether it is a terminal."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return out.isatty() and environment.get("TERM") != "dumb"


def coloured(lines: Iterable[str]) -> Iterator[str]:
    """Robust accuracies shaded, the best of each threat bold, alarms yellow; the text stays the same."""
    columns: list[tuple[str, int, int]] = []
    matrix = False
    for line in lines:
        if _BOARD.match(line):
            columns = [(match[0], match.start(), match.end()) for match in re.finditer(r"\S+", line)]
            yield _painted(line, BOLD)
        elif _MATRIX in line or not line:
            columns, matrix = [], bool(line)
            yield _painted(line, BOLD) if line else line
        elif matrix:
            yield _PERCENT.sub(lambda match: _shaded(match[0]), line)
        else:
            yield _row(line, columns)


def shortened(names: Iterable[str], most: int) -> dict[str, str]:
    """Each name with at most `most` letters, its middle cut out; different names stay different."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"
        number = 2
        while short in found.values():
            short = f"{name[: most - 1 - len(str(number))]}…{number}"
            number += 1
        found[name] = short
    return found


def _fitted(name: str, frame: pd.DataFrame, text: Text) -> pd.DataFrame:
    """The table with names as long as the terminal is wide enough for; where it is too narrow, without COSTS,
    then DETAILS; where that does not help either, names are cut to BROKEN and lines are left to break."""
    columns = [column for column in NAMES.get(name, ()) if column in frame]
    longest = max((len(str(value)) for column in columns for value in frame[column]), default=0)
    terminal = shutil.get_terminal_size().columns

    def cut(table: pd.DataFrame, most: int) -> pd.DataFrame:
        short = shortened((str(value) for column in columns for value in frame[column]), most)
        return table.assign(**{column: table[column].map(short) for column in columns})

    def fits(table: pd.DataFrame) -> bool:
        return max(map(len, text({name: table})), default=0) <= terminal

    fewer = [frame.drop(columns=less, errors="ignore") for less in ([], COSTS, DETAILS)]
    for table in fewer if columns else ():
        if fits(table):
            return table
        if fits(cut(table, SHORTEST)):
            too_long = bisect_left(
                range(longest), True, lo=SHORTEST, key=lambda most: not fits(cut(table, most))
            )
            return cut(table, too_long - 1)
    return cut(fewer[-1], BROKEN) if columns else frame


def _row(line: str, columns: list[tuple[str, int, int]]) -> str:
    """A row of the leaderboard. columns: name, start and end of each in the header."""
    names = [name for name, _, _ in columns]
    if not names:
        return line
    robust = names[names.index("clean") + 1 : names.index("worst") + 1]
    best = line[: columns[0][2]].strip() == "1"
    painted = line
    for name, start, end in reversed(columns):  # from the right, so that places stay
        if name == "flags" and (flags := _FLAGS.match(line, start)):
            painted = painted[:start] + _painted(flags[0], YELLOW) + painted[flags.end() :]
        if name in robust and (cell := re.search(r"\d+\.\d%\Z", line[:end])) and len(line) >= end:
            shade = _shaded(cell[0], bold=best and name == "worst")
            painted = painted[: cell.start()] + shade + painted[end:]
    return painted


def _shaded(percent: str, *, bold: bool = False) -> str:
    step = min(int(float(percent[:-1]) / 100 * len(BLUES)), len(BLUES) - 1)
    return _painted(percent, f"{BOLD + ';' if bold else ''}38;5;231;48;5;{BLUES[step]}")


def _painted(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"
