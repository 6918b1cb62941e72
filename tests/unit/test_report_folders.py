"""Which folders are reported, and the page above several."""

from __future__ import annotations

import re

import pytest

from rstbench.errors import BadFile, BadRequest
from rstbench.evidence.manifest import MANIFEST_FILE, Manifest
from rstbench.reports.report import runs_in, write_index, write_report
from rstbench.reports.tables import write


def test_a_page_of_pages(hand_run, tmp_path):
    reports = []
    for name in ("one", "deep/two"):
        evidence = hand_run(tmp_path / name)
        frames = write(evidence, tmp_path / name)
        write_report(evidence, frames, tmp_path / name)
        reports.append((evidence, frames, tmp_path / name))
    assert write_index(reports) == tmp_path / "index.html"
    text = (tmp_path / "index.html").read_text()
    assert re.findall(r'href="(.*?)"', text) == ["one/index.html", "deep/two/index.html"]
    assert all((tmp_path / link).exists() for link in ("one/index.html", "deep/two/index.html"))
    assert "<script>alert(1)</script>" not in text
    # One folder, or one inside the other: the page stands above both.
    assert write_index(reports[:1]) == tmp_path / "index.html"
    (tmp_path / "one" / MANIFEST_FILE).read_bytes()
    assert write_index([reports[0], (*reports[1][:2], tmp_path / "one" / "in")]) == tmp_path / "index.html"


def test_folders_of_runs(tmp_path):
    for name in ("a", "b/c", "b/d"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / MANIFEST_FILE).touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "empty").mkdir()
    everything = [str(path) for path in sorted(tmp_path.iterdir()) if path.name != "empty"]
    assert runs_in(everything) == [tmp_path / "a", tmp_path / "b" / "c", tmp_path / "b" / "d"]
    assert runs_in([str(tmp_path / "a"), str(tmp_path / "a")]) == [tmp_path / "a"]
    # What holds no run is refused where it is read, unless it says what it is instead.
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "README.md").touch()
    assert runs_in([*everything, str(tmp_path / "speed")]) == runs_in(everything)
    with pytest.raises(BadFile, match="name a folder"):
        runs_in([str(tmp_path / "speed")])
    (wrong,) = runs_in([str(tmp_path / "empty")])
    with pytest.raises(BadFile, match="name a folder"):
        Manifest.load(wrong)
    with pytest.raises(BadFile, match="no folder"):
        runs_in([str(tmp_path / "nowhere")])
    with pytest.raises(BadFile, match="name a folder"):
        runs_in([str(tmp_path / "README.md")])


def test_folders_without_a_common_parent(hand_run, monkeypatch, tmp_path):
    evidence = hand_run(tmp_path)
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")
    with pytest.raises(BadRequest, match="common parent"):
        write_index([(evidence, {}, tmp_path)])
