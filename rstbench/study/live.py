"""Keep the tables and the page of a run up to date while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..progress import Progress
from ..reports.leaderboard import attacks_of, row_text
from ..reports.lookup import Evidence
from ..reports.report import write_report
from ..reports.tables import write

FIRST, PAGE = 5.0, 45.0  # seconds until the first tables, and the first page
LEAST = 10.0  # seconds between two writings
PATIENCE = 50  # times as long as writing takes until it is done again


@dataclass
class LiveTables:
    """Write the tables of a folder as answers come in, the page less often, and show complete rows."""

    folder: Path
    progress: Progress
    has_page: bool = True
    clock: Callable[[], float] = time.monotonic
    _next: float = field(init=False)
    _next_page: float = field(init=False)
    _shown: set[tuple[str, str, int]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._next, self._next_page = self.clock() + FIRST, self.clock() + PAGE

    def update(self) -> None:
        """Write what is due. Raises what writing raises."""
        began = self.clock()
        if began < self._next:
            return
        evidence = Evidence.read(self.folder)
        frames = write(evidence, self.folder)
        self._next = self._after(began)
        if "leaderboard" in frames:
            self._show(frames["leaderboard"], attacks_of(evidence))
        if self.has_page and began >= self._next_page:
            write_report(evidence, frames, self.folder)
            self._next = self._next_page = self._after(began)

    def _after(self, began: float) -> float:
        now = self.clock()
        return now + max(LEAST, PATIENCE * (now - began))

    def _show(self, board: pd.DataFrame, attacks: list[str]) -> None:
        for _, row in board[board["worst"].notna()].iterrows():
            key = (str(row["model"]), str(row["threat"]), int(row["seed"]))
            if key not in self._shown:
                self._shown.add(key)
                self.progress.remark(row_text(row, attacks))
