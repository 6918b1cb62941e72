"""Keep the tables and the page of a run up to date while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..evidence.manifest import MANIFEST_FILE
from ..evidence.store import Store
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
    """Write the tables of a folder as answers come in, the page less often, and show complete rows; nothing
    where no manifest is yet."""

    folder: Path
    progress: Progress
    has_page: bool = True
    clock: Callable[[], float] = time.monotonic
    _next: float = field(init=False)
    _next_page: float = field(init=False)
    # Bytes of evidence that were shown.
    _in_tables: int = field(default=0, init=False)
    _on_page: int = field(default=0, init=False)
    _shown: set[tuple[str, str, int]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._next, self._next_page = self.clock() + FIRST, self.clock() + PAGE

    def update(self) -> None:
        """Write what is due, where there are new answers. Raises what writing raises."""
        began = self.clock()
        if began < self._next or not (self.folder / MANIFEST_FILE).exists():
            return
        answers = sum(path.stat().st_size for path in Store(self.folder).folder.glob("*.jsonl"))
        page = self.has_page and began >= self._next_page and answers != self._on_page
        if answers == self._in_tables and not page:
            self._next = began + LEAST
            return
        evidence = Evidence.read(self.folder)
        frames = write(evidence, self.folder)
        self._in_tables, self._next = answers, self._after(began)
        if "leaderboard" in frames:
            self._show(frames["leaderboard"], attacks_of(evidence))
        if page:
            write_report(evidence, frames, self.folder)
            self._on_page, self._next = answers, self._after(began)
            self._next_page = self._next

    def _after(self, began: float) -> float:
        now = self.clock()
        return now + max(LEAST, PATIENCE * (now - began))

    def _show(self, board: pd.DataFrame, attacks: list[str]) -> None:
        for _, row in board[board["worst"].notna()].iterrows():
            key = (str(row["model"]), str(row["threat"]), int(row["seed"]))
            if key not in self._shown:
                self._shown.add(key)
                self.progress.remark(row_text(row, attacks))
