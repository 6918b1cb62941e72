"""The page as a file: whole, escaped, sufficient to itself, the same for the same evidence."""

from __future__ import annotations

import configparser
import re
import sys
from dataclasses import replace
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from rstbench.reports import palette
from rstbench.reports.figures.style import SERIES
from rstbench.reports.lookup import Evidence
from rstbench.reports.page.inline import inline
from rstbench.reports.page.template import template
from rstbench.reports.report import write_report
from rstbench.reports.tables import write

ROOT = Path(__file__).parent.parent.parent
NAME = "<script>alert(1)</script>"
VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """Elements, and that each is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def values(self, attribute):
        return [attrs[attribute] for _, attrs in self.found if attribute in attrs]


@pytest.fixture(scope="module")
def folder(hand_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("hand")
    report(hand_run(root), root)
    return root


def report(evidence, root, own=None):
    frames = write(evidence, root, own=own)
    notes = write_report(evidence, frames, root)
    return frames, notes


def text_of(root):
    return (root / "index.html").read_text()


def test_every_row_is_there_with_its_figures(folder):
    page = Page(text_of(folder))
    words = " ".join(" ".join(page.words).split())
    for _, line in pd.read_csv(folder / "leaderboard.csv").iterrows():
        assert f"Evidence of {line['model']} at {line['threat']}" in words
        assert f"{100 * line['clean']:.1f}" in words
    assert page.values("data-threat").count("Linf:1/10") == 5
    assert page.values("data-kind").count("ticket") == 4
    assert "apgd-ce" in words
    assert "no answer" in words  # the attack that failed
    assert "<b>autoattack</b> raised" in words
    assert len(re.findall(r"<svg", text_of(folder))) == 8


def test_a_name_is_text(folder):
    text = text_of(folder)
    assert NAME not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert text.count("<script") == 2  # our own


def test_it_loads_nothing_and_its_links_lead_somewhere(folder):
    text = text_of(folder)
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert page.values("src") == []
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    for link in page.values("href"):
        assert link[1:] in ids if link.startswith("#") else (folder / link).exists(), link
    assert set(page.values("href")) >= evidence_of_rows(folder)


def evidence_of_rows(folder):
    """The evidence that the leaderboard's cells are views of."""
    evidence = Evidence.read(folder)
    rows = {(m, row.model) for row in evidence.manifest.rows for m, _ in evidence.members(row.model)}
    return {
        f"results/{record.trial.key}.jsonl"
        for record in evidence.records.values()
        if (record.trial.target, record.trial.source) in rows and "early" not in record.trial.attack
    }


def test_the_same_evidence_gives_the_same_page(hand_run, folder, tmp_path):
    report(hand_run(tmp_path), tmp_path)
    assert text_of(tmp_path) == text_of(folder)


def test_without_matplotlib_there_is_a_page_and_one_line(hand_run, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("rstbench.reports.figures.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, notes = report(hand_run(tmp_path), tmp_path)
    assert len(notes) == 1
    assert notes[0].startswith("no figures for ")
    assert "matplotlib" in notes[0]
    assert "<svg" not in text_of(tmp_path)
    assert "rst-0.1" in text_of(tmp_path)


def test_a_matrix_alone_has_a_page(hand_run, tmp_path):
    frames, notes = report(hand_run(tmp_path, rows=[]), tmp_path)
    assert notes == []
    assert "leaderboard" not in frames
    page = Page(text_of(tmp_path))
    assert "transfer" in page.values("id")
    assert "leaderboard" not in page.values("id")


def test_who_is_better_is_said_with_its_interval(folder):
    text = text_of(folder)
    compared = text[text.index('<section id="compared">') :].partition("</section>")[0]
    frame = pd.read_csv(folder / "compare.csv")
    worst = frame[frame["attack"].isin(["worst", "minimum"])]
    assert len(worst) > 3
    assert compared.count("<tr>") == len(worst) + 1
    for _, row in worst.iterrows():
        assert f"{100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}" in compared


def test_whatever_evidence_is_missing_the_rest_is_reported(hand_run, tmp_path):
    """The tables without each file of the evidence in turn, figures and page without some; then nothing."""
    hand_run(tmp_path)
    files = {path: path.read_bytes() for path in sorted((tmp_path / "results").iterdir())}
    for place, (path, content) in enumerate(files.items()):
        path.unlink()
        evidence = Evidence.read(tmp_path)
        frames = write(evidence, tmp_path)
        assert len(frames["leaderboard"])
        assert place % 8 or write_report(evidence, frames, tmp_path) == []
        path.write_bytes(content)
    for path in files:
        path.unlink()
    frames, notes = report(Evidence.read(tmp_path), tmp_path)
    assert notes == []
    assert frames["leaderboard"][["rank", "clean", "worst"]].isna().all(axis=None)  # the run had failures
    assert "by hand" in text_of(tmp_path)


def test_quoted_figures_stand_apart(hand_run, tmp_path):
    near = "Linf:1/10"
    common = {"kind": "published", "attack": "pgd", "remaining": 0.05, "clean": 0.75, "robust": 0.458}
    common |= {"source": "Fu et al.", "read": "2026-11-21"}
    rows = [
        {
            "model": "theirs",
            "threat": "Linf:1/10",
            "data": "digits",
            "url": "https://example.org/x",
            **common,
        },
        {"model": "trap", "threat": near, "data": "digits", "url": "javascript:alert(1)", **common},
        {"model": "elsewhere", "threat": near, "data": "cifar10", **common},
        {"model": "farther", "threat": "Linf:1", "data": "digits", **common},
    ]
    frames, _ = report(hand_run(tmp_path), tmp_path, own=pd.DataFrame(rows))
    text = text_of(tmp_path)
    quoted = text[text.index('<section id="quoted">') :].partition("</section>")[0]
    assert "theirs" in quoted
    assert "45.8" in quoted
    assert "trap" in quoted
    assert "javascript:" not in text
    assert "elsewhere" not in text
    assert "farther" not in text
    assert "theirs" not in set(frames["leaderboard"]["model"])
    assert [link for link in Page(text).values("href") if ":" in link.partition("/")[0]] == [
        "https://example.org/x"
    ]


def test_evidence_from_another_machine_is_told(hand_run, tmp_path):
    evidence = hand_run(tmp_path)
    assert " on cpu, 2 threads" not in report_text(evidence, tmp_path)
    run = {**evidence.manifest.run, "threads": 3}
    changed = replace(evidence, manifest=replace(evidence.manifest, run=run))
    assert "on cpu, 2 threads, rstbench 0, torch 2" in report_text(changed, tmp_path)


def report_text(evidence, root):
    report(evidence, root)
    return text_of(root)


def test_a_figure_becomes_a_part_of_the_page():
    svg = b"""<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://y">
    <svg width="72pt" height="36pt" viewBox="0 0 72 36" xmlns="http://www.w3.org/2000/svg"><!-- a > b -->
    <style type="text/css">*{x: y}</style><g id="a"><path d="M 1.23456 2" style="fill: #1b1f24"/></g>
    <use href="#a" clip-path="url(#b)"/></svg>"""
    assert " ".join(inline(svg, "one").split()) == (
        '<svg aria-hidden="true" style="width:96px" viewBox="0 0 72 36"> <g id="one-a"><path '
        'd="M 1.23 2" style="fill: var(--ink)"/></g> <use href="#one-a" clip-path="url(#one-b)"/></svg>'
    )


def test_every_colour_of_figures_and_pages_comes_from_the_palette():
    coloured = "".join(f'<path style="stroke: {colour}"/>' for colour in SERIES)
    assert re.findall(r"stroke: (.*?)\"", inline(coloured.encode(), "one")) == [
        f"var(--{name})" for name in palette.SERIES
    ]
    style = template("style.css").render()
    for name, (light, dark) in palette.PAGE.items():
        assert re.findall(rf"--{name}: (.*);", style) == [light, dark]
    reports = ROOT / "rstbench" / "reports"
    others = {path for kind in ("py", "css", "html", "js") for path in reports.rglob(f"*.{kind}")}
    others.remove(reports / "palette.py")
    colours = {colour for path in others for colour in re.findall(r"#[0-9a-f]{6}\b", path.read_text())}
    assert not colours


def test_the_package_ships_its_templates():
    """A wheel holds what package_data names."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["rstbench"].split()
    package = ROOT / "rstbench"
    templates = [path.relative_to(package).as_posix() for path in package.rglob("templates/*")]
    assert len(templates) == 4
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in templates)
