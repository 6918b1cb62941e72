"""Damaged and hostile inputs of every parser: read or refused in one line, nothing else."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rstbench.errors import BadRequest
from tests.fuzz.parsers import PARSERS
from tests.fuzz.run import cases_of, try_parser
from tests.fuzz.sandbox import Outcome, attempt

CASES, SLOW_CASES = 2_000, 100_000
TEXTS = [parser for parser in PARSERS[:7] if parser.name != "attacks"]  # those that are read in microseconds
quick = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_damaged_inputs_are_read_or_refused(parser):
    count = cases_of(parser, CASES)
    outcome = try_parser(parser, count)
    assert outcome.faults == []
    assert outcome.cases == count


@pytest.mark.slow
def test_a_hundred_thousand_cases(capsys):
    outcomes = {parser.name: try_parser(parser, cases_of(parser, SLOW_CASES), 10**6) for parser in PARSERS}
    total = sum(outcome.cases for outcome in outcomes.values())
    with capsys.disabled():
        print(f"\n{total} cases")
    assert [(name, fault) for name, outcome in outcomes.items() for fault in outcome.faults] == []
    assert total >= SLOW_CASES
    assert [
        name for name, outcome in outcomes.items() if not outcome.read or not outcome.refused + outcome.read
    ] == []


@pytest.mark.parametrize("parser", TEXTS, ids=lambda parser: parser.name)
def test_random_texts(parser, tmp_path):
    @quick
    @given(st.text(max_size=80))
    def each(text):
        assert attempt(parser.run, text, tmp_path, Outcome()) == ""

    each()


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (lambda case, folder: 1 / 0, "ZeroDivisionError"),
        (lambda case, folder: (folder.parent / "out").write_text("x"), "wrote"),
        (lambda case, folder: subprocess.run(["true"]), "subprocess.Popen"),
        (lambda case, folder: os.system("true"), "os.system"),
        (lambda case, folder: (folder.parent / "new").mkdir(), "os.mkdir"),
        (lambda case, folder: bytearray(10**9), "MiB"),
        (lambda case, folder: _refuse(""), "one line"),
        (lambda case, folder: (folder / "in").write_text("x"), ""),
        (lambda case, folder: _refuse("no"), ""),
    ],
)
def test_the_watch_sees_what_it_is_for(act, problem, tmp_path):
    (tmp_path / "case").mkdir()
    told = attempt(act, None, tmp_path / "case", Outcome())
    assert problem in told
    assert bool(told) == bool(problem)


def test_the_watch_ends_what_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.sandbox.DEADLINE", 0.2)
    assert "not done in" in attempt(lambda case, folder: time.sleep(30), None, tmp_path, Outcome())


def _refuse(text):
    raise BadRequest(text)
