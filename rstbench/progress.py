"""What work reports of its progress, and the interface that receives it; what prints it is `cli.progress`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

EARLY_SHARE, EARLY_SECONDS = 0.02, 5.0  # before both a shard's end is not estimated


@dataclass(frozen=True)
class StageReport:
    """How far one attack on one shard is.

    stage: the part that runs, such as 'apgd-t'; images_left: still attacked; robust: the share of the
    shard's images that stand so far; done, total: image passes of all stages, the total estimated.
    """

    stage: str
    images_left: int
    robust: float
    done: float
    total: float


@dataclass(frozen=True)
class ShardReport:
    """Where a shard under way is, as its process saw it last.

    name: model, attack and threat; start, images: its first image and how many; began, now: of the attack and
    of the report, in seconds since 1970.
    """

    name: str
    start: int
    images: int
    began: float
    now: float
    pid: int
    stage: StageReport

    @property
    def span(self) -> str:
        return f"images {self.start}-{self.start + self.images - 1}"

    @property
    def rate(self) -> float:
        """Return image passes a second since the attack began."""
        elapsed = self.now - self.began
        return self.stage.done / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Return how long the attack still takes; None at its beginning, and beyond the estimated total."""
        done, total = self.stage.done, self.stage.total
        is_early = done < EARLY_SHARE * total and self.now - self.began < EARLY_SECONDS
        if is_early or self.rate <= 0 or done >= total:
            return None
        return (total - done) / self.rate

    def line(self) -> str:
        """Return `rst-0.2, pgd Linf:0.1, images 0-99, in pgd: 61 left, …`."""
        return f"{self.name}, {self.span}, in {self.stage.stage}: {joint_figures([self])}"


def joint_figures(reports: Sequence[ShardReport]) -> str:
    """Return `61 left, robust 0.82 so far, 5.2k passes/s, 14 s left` of shards together.

    The time left is that of the shard that ends last.
    """
    images = max(1, sum(report.images for report in reports))
    robust = sum(report.images * report.stage.robust for report in reports) / images
    parts = [
        f"{sum(report.stage.images_left for report in reports)} left",
        f"robust {robust:.2f} so far",
        f"{_short(sum(report.rate for report in reports))} passes/s",
    ]
    seconds = [left for report in reports if (left := report.seconds_left) is not None]
    if len(seconds) == len(reports) > 0:
        parts.append(f"{duration(max(seconds))} left")
    return ", ".join(parts)


def _short(number: float) -> str:
    """Return a number as '812', '5.2k' or '31M'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"


def duration(seconds: float) -> str:
    """Return a duration as '45 s', '12 min', '3 h 5 min' or '2 d 4 h'."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), int(seconds // 86400)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{days} d {round(seconds / 3600) - 24 * days} h"


class _Listening:
    """One who listens, and hears at most a report each `interval` seconds, the first after as many."""

    def __init__(
        self, listener: Callable[[StageReport], None], interval: float, clock: Callable[[], float]
    ) -> None:
        self.listener, self.interval, self.clock = listener, interval, clock
        self.last = clock()

    def is_due(self) -> bool:
        elapsed = self.clock() - self.last
        return not 0 <= elapsed < self.interval  # below 0 the clock was set back

    def hear(self, stage_report: StageReport) -> None:
        if self.is_due():
            self.listener(stage_report)
            self.last = self.clock()


_listening: ContextVar[_Listening | None] = ContextVar("listening", default=None)


@contextmanager
def listening(
    listener: Callable[[StageReport], None],
    interval: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Call `listener` with the reports made within the block, at most one each `interval` seconds."""
    token = _listening.set(_Listening(listener, interval, clock))
    try:
        yield
    finally:
        _listening.reset(token)


def is_due() -> bool:
    """Return whether a report would be heard now: only then need its figures be found out."""
    listener = _listening.get()
    return listener is not None and listener.is_due()


def report(stage_report: StageReport) -> None:
    """Tell who listens how far an attack is; attacks call it between blocks of steps."""
    listener = _listening.get()
    if listener is not None:
        listener.hear(stage_report)


class Stage(Protocol):
    """A stage that is running."""

    def advance(self, count: int, **figures: float) -> None:
        """Add `count` finished units; figures are shown beside them (`robust=0.83`)."""

    def inside(self, reports: Sequence[ShardReport]) -> None:
        """Show where the units under way are; called every second, from another thread."""


class Progress(Protocol):
    """Receives stages and single lines."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Stage]:
        """Begin a stage of `total` units, which ends with the context."""

    def note(self, line: str) -> None:
        """Report a line that a person should read."""

    def remark(self, line: str) -> None:
        """Report a line that a person may like to know, where progress is shown."""


class Silent:
    """Ignores everything."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Stage]:
        return nullcontext(self)

    def advance(self, count: int, **figures: float) -> None:
        pass

    def inside(self, reports: Sequence[ShardReport]) -> None:
        pass

    def note(self, line: str) -> None:
        pass

    remark = note
