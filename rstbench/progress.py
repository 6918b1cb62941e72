"""The interface through which work reports its progress; what prints it is `cli.progress`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


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
