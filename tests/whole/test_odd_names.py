"""Names of models with signs that mean something elsewhere: every output stays whole and harmless."""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from rstbench.errors import BadRequest
from rstbench.files import LONGEST_NAME, short_name
from rstbench.references import Reference
from rstbench.reports.csv_io import read_table
from rstbench.reports.figures.style import file_name
from rstbench.study.reading import parse_study
from tests.hand_run import STRANGER

NAMES = {
    "path": "../../up/../and/down",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;",
    "ansi": "\x1b[31mred\x1b[0m\x07\x9b2J",
    "formula": "=cmd|' /C calc'!A0",
    "at": "@SUM(1+1)",
    "toml": '"""\n[run]\nfailures = ["x"]\'\'\'\\',
    "lines": "one\r\ntwo\u2028three\u0085four\tfive",
    "latex": r"\input{/etc/passwd}%$_^~#&{}",
    "markdown": "a|b](http://x)`c`*d*_e_ <b>",
    "json": '"}],"x":[{"\\u0000',
    "turned": "\u202egnp.exe\u200b",
    "long": "x" * 10**5,
}


class Tags(HTMLParser):
    """Collects the tags of a page and their attributes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


MODELS = ("dense", "rst-0.1", "rst-0.2", STRANGER)


@pytest.mark.parametrize("first", range(0, len(NAMES), len(MODELS)))
def test_names_stay_names(first, hand_run, tmp_path, cli):
    """Four names in a run that is reported in every format: a report takes seconds."""
    names = list(NAMES.values())[first : first + len(MODELS)]
    root, name = tmp_path / "runs" / "run", names[-1]
    hand_run(root, names=dict(zip(MODELS, names, strict=True)), study={"name": name, "attacks": ["pgd"]})
    formats = [
        part for kind in ("markdown", "latex", "html", "json", "robustbench") for part in ("--format", kind)
    ]
    done = cli("report", root, *formats)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    # the terminal
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", shown)
    # CSV: what is read back is the name, and no cell begins as a formula does
    board = read_table(root / "leaderboard.csv")
    assert set(names) <= set(board["model"])
    for path in root.glob("*.csv"):
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True))
        assert {len(row) for row in rows} == {len(rows[0])}, path
        texts = [cell for row in rows for cell in row if not re.fullmatch(r"-?[\d.e+-]*", cell)]
        assert not [cell for cell in texts if cell[:1] in tuple("=+-@\t\r\n")], path
    # the manifest
    manifest = tomllib.loads((root / "study.toml").read_text())
    assert manifest["name"] == name
    assert manifest["run"]["failures"] == ["<b>autoattack</b> raised"]
    # JSON
    assert set(names) <= {row["model"] for row in json.loads((root / "leaderboard.json").read_text())}
    # Markdown: as many cells in each line; LaTeX: no command of the name's
    lines = (root / "leaderboard.md").read_text().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {
        len(re.findall(r"(?<!\\)\|", lines[0]))
    }
    assert "\\input{" not in (root / "leaderboard.tex").read_text()
    # pages
    for path in (root / "index.html", root / "leaderboard.html"):
        tags = Tags()
        tags.feed(path.read_text())
        assert not [
            tag
            for tag, attributes in tags.found
            if tag == "img" or any(a.startswith("on") for a in attributes)
        ]
        assert not any("alert(1)" in str(attributes.get("src")) for _, attributes in tags.found)
        assert "<script>alert" not in path.read_text()
    # figures
    for path in root.glob("figures/*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not tags & {"script", "foreignObject"}
    # nothing lies beside the run, and every name is one that file systems take
    assert [path.name for path in root.parent.iterdir()] == ["run"]
    assert all(len(path.name) < 200 and re.fullmatch(r"[\w.+-]+", path.name) for path in root.rglob("*"))


def test_long_names_of_files_are_cut_and_stay_apart():
    assert short_name("a" * LONGEST_NAME) == "a" * LONGEST_NAME
    first, second = short_name("a" * 10**5 + "1"), short_name("a" * 10**5 + "2")
    assert len(first) == LONGEST_NAME
    assert first != second
    assert len(file_name("transfer", "pgd" * 1000)) == LONGEST_NAME


@pytest.mark.parametrize("name", ["a" * 101, "../x", "a/b", "a\nb", "\x1b[1m", "=1", "", "."])
def test_studies_name_what_they_make_by_plain_names(name):
    plain = {"name": "x", "data": "digits", "threats": ["Linf:0.1"]}
    with pytest.raises(BadRequest, match="a name is made of up to 100 letters"):
        parse_study({**plain, "draw": [{"remaining": [0.1], "name": name}]}, "x.toml")


def test_names_that_are_no_unicode_are_refused(cli, tmp_path):
    """A file name of other bytes, as Python hands it over: no table could hold it."""
    with pytest.raises(BadRequest, match="is no text"):
        Reference.parse("ticket:\udcff.safetensors")
    done = cli("evaluate", "ticket:\udcff.safetensors")
    assert done.returncode == 2
    assert "is no text" in done.stderr


def test_a_command_on_the_page_is_quoted(hand_run, tmp_path):
    from rstbench.evidence.manifest import Manifest
    from rstbench.reports.page.commands import study_command

    hand_run(tmp_path, study={"name": "x", "model": [{"ref": "file:a b.py:net"}]})
    path = tmp_path / "study.toml"
    path.write_text(path.read_text().replace("threads = 2", 'threads = "1; rm -rf x"'))
    assert study_command(Manifest.load(tmp_path)).startswith("OMP_NUM_THREADS='1; rm -rf x' python ")
