"""Show progress: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from ..progress import ShardReport, Silent, duration, joint_figures

INTERVAL = 9.0  # seconds between two log lines; as each second is looked, there is one in every ten
MOST_SHARDS = 4  # named in one line each


class Notes(Silent):
    """Show notes only."""

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _Printed:
    """Print notes and remarks. last: when a line was printed last."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.last = time.monotonic()

    def note(self, line: str) -> None:
        self.last = time.monotonic()
        self.out.write(f"{line}\n")  # at once, for two threads print
        self.out.flush()

    remark = note


class Bars(_Printed):
    """Show one bar a stage, with units per second, the remaining time, the figures so far, and how far the
    shards under way are."""

    def note(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=self.out)  # above the bar

    remark = note

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[_Bar]:
        from tqdm import tqdm

        with tqdm(total=total, desc=name, unit=unit, file=self.out, dynamic_ncols=True) as bar:
            yield _Bar(bar)


@dataclass
class _Bar:
    bar: Any
    figures: str = ""

    def advance(self, count: int, **figures: float) -> None:
        self.figures = ", ".join(f"{name}={value:.3g}" for name, value in figures.items())
        self.bar.set_postfix_str(self.figures, refresh=False)
        self.bar.update(count)

    def inside(self, reports: Sequence[ShardReport]) -> None:
        parts = [self.figures, f"{_stages(reports)}: {joint_figures(reports)}" if reports else ""]
        self.bar.set_postfix_str("; ".join(filter(None, parts)))


def _stages(reports: Sequence[ShardReport]) -> str:
    """Return `in apgd-t`, or `2 shards in apgd-t, square`."""
    stages = ", ".join(dict.fromkeys(report.stage.stage for report in reports))
    return f"in {stages}" if len(reports) == 1 else f"{len(reports)} shards in {stages}"


class Lines(_Printed):
    """Show a line at the end of a stage, and in it where none was printed for ten seconds."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[_Line]:
        line = _Line(self, name, total, unit)
        yield line
        line.write()


class _Line:
    def __init__(self, lines: Lines, name: str, total: int, unit: str) -> None:
        self.lines, self.name, self.total, self.unit = lines, name, total, unit
        self.done, self.done_now = 0, 0
        self.began = lines.last = time.monotonic()
        self.figures: dict[str, float] = {}

    @property
    def _head(self) -> str:
        return f"{self.name}: {self.done}/{self.total} {self.unit}s"

    def advance(self, count: int, **figures: float) -> None:
        self.done += count
        # What an earlier run finished comes without figures and must not count as speed.
        self.done_now += count if figures else 0
        self.figures = figures or self.figures
        if time.monotonic() - self.lines.last > INTERVAL and self.done < self.total:
            self.write()

    def inside(self, reports: Sequence[ShardReport]) -> None:
        """Write `x pgd: 0/200 images, in pgd of images 0-99: 61 left, …`, and a line for each of several."""
        now = time.monotonic()
        if now - self.lines.last < INTERVAL:
            return
        if not reports:  # workers begin, or the attack reports nothing
            self.lines.note(f"{self._head}, for {duration(now - self.began)}")
            return
        is_part = len(reports) == 1 and reports[0].images < self.total
        span = f" of {reports[0].span}" if is_part else ""
        lines = [f"{self._head}, {_stages(reports)}{span}: {joint_figures(reports)}"]
        if len(reports) > 1:
            lines += [f"  {report.line()}" for report in reports[:MOST_SHARDS]]
        if len(reports) > MOST_SHARDS:
            lines.append(f"  and {len(reports) - MOST_SHARDS} more")
        self.lines.note("\n".join(lines))

    def write(self) -> None:
        """Write `attack x: 100/150 images, 3.1/s, 16 s left, robust 0.83`."""
        rate = self.done_now / max(1e-9, time.monotonic() - self.began)
        parts = [self._head, f"{rate:.3g}/s"]
        if self.done < self.total and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        parts += [f"{name} {value:.3g}" for name, value in self.figures.items()]
        self.lines.note(", ".join(parts))
