"""How far the work is, told to whoever listens. The terminal's listener lives beside the command line."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Stage(Protocol):
    """One stage under way."""

    def advance(self, count: int, **figures: float) -> None:
        """`count` more units are done; figures are shown beside (`robust=0.83`)."""


class Progress(Protocol):
    """Listens to stages and to single lines."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Stage]:
        """A stage of `total` units begins; it ends with the context."""

    def note(self, line: str) -> None:
        """Something a person should read once."""

    def remark(self, line: str) -> None:
        """Something a person may like to know once, where progress is shown."""


class Silent:
    """Listens to nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Stage]:
        return nullcontext(self)

    def advance(self, count: int, **figures: float) -> None:
        pass

    def note(self, line: str) -> None:
        pass

    def remark(self, line: str) -> None:
        pass
