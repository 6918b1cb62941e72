"""Tables while a run goes on: when they are written, which rows are shown, what a page says meanwhile."""

from __future__ import annotations

import pytest

from rstbench.evidence.manifest import MANIFEST_FILE
from rstbench.progress import Silent
from rstbench.reports.lookup import Evidence
from rstbench.study.live import FIRST, LEAST, PAGE, LiveTables


class Remarks(Silent):
    def __init__(self):
        self.lines = []

    def remark(self, line):
        self.lines.append(line)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def live(hand_run, tmp_path):
    hand_run(tmp_path)
    clock = Clock()
    return LiveTables(tmp_path, Remarks(), clock=clock), clock, tmp_path


def test_tables_come_first_then_the_page(live):
    tables, clock, folder = live
    tables.update()
    assert not (folder / "leaderboard.csv").exists()
    clock.now += FIRST
    tables.update()
    assert (folder / "leaderboard.csv").exists()
    assert not (folder / "index.html").exists()
    (folder / "leaderboard.csv").unlink()
    clock.now += LEAST / 2
    tables.update()
    assert not (folder / "leaderboard.csv").exists()
    clock.now += PAGE
    tables.update()
    assert (folder / "leaderboard.csv").exists()
    assert (folder / "index.html").exists()
    for path in (folder / "leaderboard.csv", folder / "index.html"):
        path.unlink()
    clock.now += 100 * PAGE
    tables.update()  # nothing is new
    assert not (folder / "leaderboard.csv").exists()
    assert not (folder / "index.html").exists()


def test_a_row_is_shown_once_it_is_complete(live):
    tables, clock, folder = live
    results = sorted(folder.glob("results/*.jsonl"))
    kept = {path: path.read_bytes() for path in results}
    for path in results:
        if '"clean"' not in path.read_text().splitlines()[0]:
            path.unlink()
    clock.now += FIRST
    tables.update()
    assert tables.progress.lines == []
    for path, content in kept.items():
        path.write_bytes(content)
    for _ in range(2):
        clock.now += LEAST
        tables.update()
    shown = tables.progress.lines
    assert len(shown) == len(set(shown))
    assert any(line.startswith("rst-0.1 at Linf:1/10: clean ") and ", worst " in line for line in shown)


def test_the_page_tells_what_has_no_answer_yet(live):
    tables, clock, folder = live
    whole = Evidence.read(folder)
    before = whole.unanswered
    next(path for path in folder.glob("results/*.jsonl") if '"clean"' not in path.read_text()).unlink()
    assert Evidence.read(folder).unanswered == before + 1
    clock.now += PAGE
    tables.update()
    text = f"{before + 1} of {len(whole.manifest.keys)} questions have no answer"
    assert text in (folder / "index.html").read_text()
    assert (folder / MANIFEST_FILE).exists()
