"""The interface through which work reports its progress; what prints it is `cli.progress`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


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


_listener: ContextVar[Callable[[StageReport], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[StageReport], None]) -> Iterator[None]:
    """Call `listener` with every report that is made within the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(stage_report: StageReport) -> None:
    """Tell who listens how far an attack is; attacks call it between blocks of steps."""
    listener = _listener.get()
    if listener is not None:
        listener(stage_report)


class Stage(Protocol):
    """A stage that is running."""

    def advance(self, count: int, **figures: float) -> None:
        """Add `count` finished units; figures are shown beside them (`robust=0.83`)."""


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

    def note(self, line: str) -> None:
        pass

    remark = note
