"""Show progress: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from ..progress import Silent

INTERVAL = 15.0  # seconds between two log lines


class Notes(Silent):
    """Show notes only."""

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _Printed:
    """Print notes and remarks."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr

    def note(self, line: str) -> None:
        print(line, file=self.out, flush=True)

    remark = note


class Bars(_Printed):
    """Show one bar a stage, with units per second, the remaining time and the figures so far."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[_Bar]:
        from tqdm import tqdm

        with tqdm(total=total, desc=name, unit=unit, file=self.out, dynamic_ncols=True) as bar:
            yield _Bar(bar)


@dataclass
class _Bar:
    bar: Any

    def advance(self, count: int, **figures: float) -> None:
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items()}, refresh=False)
        self.bar.update(count)


class Lines(_Printed):
    """Show a line every 15 seconds of a stage, and at its end."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[_Line]:
        line = _Line(self, name, total, unit)
        yield line
        line.write()


class _Line:
    def __init__(self, lines: Lines, name: str, total: int, unit: str) -> None:
        self.lines, self.name, self.total, self.unit = lines, name, total, unit
        self.done, self.done_now = 0, 0
        self.began = self.last_line = time.monotonic()
        self.figures: dict[str, float] = {}

    def advance(self, count: int, **figures: float) -> None:
        self.done += count
        # What an earlier run finished comes without figures and must not count as speed.
        self.done_now += count if figures else 0
        self.figures = figures or self.figures
        if time.monotonic() - self.last_line > INTERVAL and self.done < self.total:
            self.write()

    def write(self) -> None:
        """Write `attack x: 100/150 images, 3.1/s, 16 s left, robust 0.83`."""
        now = time.monotonic()
        self.last_line = now
        rate = self.done_now / max(1e-9, now - self.began)
        parts = [f"{self.name}: {self.done}/{self.total} {self.unit}s", f"{rate:.3g}/s"]
        if self.done < self.total and rate > 0:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        parts += [f"{name} {value:.3g}" for name, value in self.figures.items()]
        self.lines.note(", ".join(parts))
