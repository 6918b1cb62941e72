"""Tables in files: what is written is read back, nothing of it is run, in every format."""

from __future__ import annotations

import csv
import html.parser
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rstbench
from rstbench.cli.commands import main
from rstbench.errors import BadFile, BadRequest
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial
from rstbench.reports import formats as formats_module
from rstbench.reports.csv_io import as_csv, read_table
from rstbench.reports.formats import FORMATS, TABLES, formats
from rstbench.reports.lookup import Evidence
from rstbench.reports.renderings import latex, markdown, page, parquet, records
from rstbench.reports.tables import tables, write

HOSTILE = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", '=1+2";=1+2', "'=1", "''@"]
HARMLESS = ["rst-0.1", "nan", "NA", "1", "", " a ", "a=b", "it's", "'quoted'", "ä, ö", 'say "x"', "a\r\nb"]
NAMES = st.one_of(
    st.sampled_from([*HOSTILE, *HARMLESS]),
    st.text(max_size=8),
    st.text("=+-@'\"\t\r\n,;a", max_size=6),
)


def table(names, values=None):
    frame = pd.DataFrame({"model": list(names), "images": range(len(names))})
    frame["pgd"] = values if values is not None else [0.5] * len(names)
    return frame


def test_what_spreadsheets_take_for_formulas_begins_with_an_apostrophe(tmp_path):
    content = as_csv(table([*HOSTILE, *HARMLESS])).decode()
    rows = list(csv.reader(content.splitlines(keepends=True)))[1:]
    assert [name for name, *_ in rows] == [*(f"'{name}" for name in HOSTILE), *HARMLESS]
    # OWASP's own example: the quotes that would begin another cell are doubled.
    assert '"\'=1+2"";=1+2"' in content
    (tmp_path / "t.csv").write_bytes(content.encode())
    assert read_table(tmp_path / "t.csv")["model"].tolist() == [*HOSTILE, *HARMLESS]


def test_numbers_below_nought_are_numbers(tmp_path):
    frame = pd.DataFrame({"model": ["-1"], "difference": [-0.25], "kept_weights": pd.array([None], "Int64")})
    assert as_csv(frame) == b"model,difference,kept_weights\n'-1,-0.25,\n"


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(NAMES, st.floats()), min_size=1, max_size=5))
def test_every_table_is_read_back_equal(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    names, values = zip(*rows, strict=True)
    path.write_bytes(as_csv(table(names, values)))
    found = read_table(path)
    assert found["model"].tolist() == list(names)
    assert found["images"].tolist() == list(range(len(names)))
    for value, read in zip(values, found["pgd"], strict=True):
        assert value == read or (not np.isfinite(value) and pd.isna(read))
    # No cell of any row begins like a formula unless it is a number.
    with path.open(newline="", encoding="utf-8") as file:
        for name, *_ in csv.reader(file):
            assert not name.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@given(st.lists(st.text("abcxyz-_.()[]=:/0123456789 ", min_size=1, max_size=9).filter(str.strip), min_size=1))
@settings(deadline=None)
def test_plain_pandas_reads_ordinary_names(tmp_path_factory, names):
    names = [f"m{name}" for name in names]
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(as_csv(table(names, [1 / 3] * len(names))))
    found = pd.read_csv(path)
    assert found["model"].tolist() == names
    assert found["pgd"].tolist() == [1 / 3] * len(names)


def test_texts_that_look_like_numbers_stay_texts(tmp_path):
    frame = pd.DataFrame({"setting": ["1"], "ratio": ["0.10"], "rank": pd.array([3], "Int64"), "pgd": [None]})
    (tmp_path / "t.csv").write_bytes(as_csv(frame))
    found = rstbench.read_table(tmp_path / "t.csv")
    assert found.iloc[0, :3].tolist() == ["1", "0.10", 3]
    assert found["pgd"].isna().all()


def test_what_is_no_table(tmp_path):
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "words.csv").write_bytes(b"pgd\nhalf\n")
    for name in ("picture.csv", "empty.csv", "words.csv"):
        with pytest.raises(BadFile, match=f"{name} is no table of this tool"):
            read_table(tmp_path / name)
    with pytest.raises(BadFile, match=r"no table .*none\.csv; `report` writes"):
        read_table(tmp_path / "none.csv")


TABLE = pd.DataFrame({
    "model": ["<b>&_x_</b>|`*", "50 %_of {a}\\b~^$#\nc"],
    "worst_low": [0.5, None],
    "rank": pd.array([1, None], "Int64"),
})  # fmt: skip


def test_markdown():
    lines = markdown("t", TABLE).decode().splitlines()
    assert lines[:2] == ["| model | worst_low | rank |", "| :-- | --: | --: |"]
    assert lines[2] == "| \\<b\\>\\&\\_x\\_\\</b\\>\\|\\`\\* | 0.5 | 1 |"
    assert lines[3] == "| 50 %\\_of {a}\\\\b\\~^$# c |  |  |"
    # A bar ends a cell only where no backslash stands before it.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}


def test_latex():
    assert latex("t", TABLE).decode().splitlines() == [
        r"\begin{tabular}{lrr}",
        r"model & worst\_low & rank \\",
        r"\hline",
        r"\textless{}b\textgreater{}\&\_x\_\textless{}/b\textgreater{}\textbar{}`{*} & 0.5 & 1 \\",
        r"50 \%\_of \{a\}\textbackslash{}b\textasciitilde{}\textasciicircum{}\$\# c &  &  \\",
        r"\end{tabular}",
    ]


def test_latex_takes_no_name_for_an_option_of_the_line_before():
    lines = latex("t", pd.DataFrame({"model": ["[1cm]", "*"]})).decode().splitlines()
    assert lines[3:5] == [r"{[}1cm] \\", r"{*} \\"]


def test_html_is_text_and_no_markup_of_ours():
    found, tags = [], []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)

        def handle_data(self, data):
            found.append(data)

    Parser().feed(page("<script>", TABLE).decode())
    assert set(tags) == {"html", "meta", "title", "style", "table", "tr", "th", "td"}
    assert {"<script>", *TABLE["model"], "0.5", "1"} <= set(found)


def test_json():
    text = records("t", TABLE).decode()
    assert json.loads(text) == [
        {"model": TABLE["model"][0], "worst_low": 0.5, "rank": 1},
        {"model": TABLE["model"][1], "worst_low": None, "rank": None},
    ]
    assert json.loads(records("t", TABLE[:0])) == []
    assert json.loads(records("t", pd.DataFrame({"pgd": [float("inf")]}))) == [{"pgd": None}]


def test_parquet_keeps_the_types(tmp_path):
    pytest.importorskip("pyarrow")
    frame = TABLE.assign(remaining=pd.Series([None, None], dtype=object))
    (tmp_path / "t.parquet").write_bytes(parquet("t", frame))
    found = pd.read_parquet(tmp_path / "t.parquet")
    assert found["model"].tolist() == TABLE["model"].tolist()
    assert found["rank"].dtype == "Int64"
    assert found["worst_low"].tolist()[0] == 0.5
    assert found["remaining"].isna().all()


@pytest.fixture
def folder(tmp_path):
    """One model with a bold name."""
    root = tmp_path / "run"
    card, threat = ModelInfo("=cmd()", "external"), "Linf:0.1"
    trials = [Trial("a", "a", "clean", "", "d", 2, 0), Trial("a", "a", "pgd", threat, "d", 2, 0)]
    for trial in trials:
        Store(root).add(trial, ShardResult(0, "10"), {"a": card}, "digits:test")
    keys = tuple(trial.key for trial in trials)
    request = Manifest(
        {"name": "x"}, {"data": "digits:test"}, 2, {"a": card}, (Row("a", threat, 0, ("pgd",)),), (), keys
    )
    request.save(root)
    return root


def test_report_writes_each_format_beside_csv(folder, capsys):
    asked = ["markdown", "latex", "html", "json"]
    assert main(["report", str(folder), *(word for name in asked for word in ("--format", name))]) == 0
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {
        "study.toml",
        "index.html",
        *(f"leaderboard.{end}" for end in ("csv", "md", "tex", "html", "json")),
    }
    assert read_table(folder / "leaderboard.csv")["model"].tolist() == ["=cmd()"]
    assert json.loads((folder / "leaderboard.json").read_text())[0]["model"] == "=cmd()"
    assert "'=cmd()" in (folder / "leaderboard.csv").read_text()


def test_an_unknown_format_is_refused_before_anything_is_written(folder, capsys):
    before = sorted(folder.rglob("*"))
    out = folder.parent / "out"
    assert main(["report", str(folder), "--out", str(out), "--format", "markdwon"]) == 2
    assert "did you mean 'markdown'" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    assert not out.exists()


def test_parquet_without_pyarrow_is_one_line(monkeypatch):
    monkeypatch.setattr(formats_module, "find_spec", lambda name: None)
    with pytest.raises(BadRequest, match=r"needs pyarrow; pip install '\.\[parquet\]'"):
        formats(["parquet"])
    assert formats([]) == [FORMATS["csv"]]


def test_every_table_is_known_to_the_formats(folder):
    evidence = Evidence.read(folder)
    assert set(tables(evidence)) <= set(TABLES)
    for name in TABLES:
        (folder / f"{name}.csv").write_text("of an earlier time")
    write(evidence, folder)
    assert sorted(path.name for path in folder.glob("*.csv")) == ["leaderboard.csv"]


def test_a_table_is_written_whatever_its_name(tmp_path):
    (write_csv,) = formats(())
    write_csv(None, {"new": pd.DataFrame({"model": ["a"], "robust": [0.5]})}, tmp_path)
    assert (tmp_path / "new.csv").read_text() == "model,robust\na,0.5\n"
