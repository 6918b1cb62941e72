"""Tables on a terminal: what is cut, what is coloured, and that elsewhere nothing is."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstbench.cli import tables
from rstbench.cli.tables import coloured, has_colour, shortened, show
from rstbench.reports.tables import leaderboard_text, matrix_text

ANSI = re.compile(r"\x1b\[[\d;]*m")
LONG = "a-ticket-with-quite-a-long-name-0.05"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def board(*rows):
    """rank, model, pgd, worst, flags."""
    lines = pd.DataFrame(rows, columns=["rank", "model", "pgd", "worst", "flags"]).astype({"rank": "Int64"})
    whole = lines.assign(kind="ticket", threat="Linf:0.1", seed=0, clean=0.99, forwards=42.0)
    return whole[["rank", "model", "kind", "threat", "seed", "clean", "pgd", "worst", "flags", "forwards"]]


FRAME = board((1, "best", 0.86, 0.85, "few-images zero-gradient"), (2, LONG, 0.1, 0.05, ""))


def text_of(frames):
    return leaderboard_text(frames["leaderboard"])


@pytest.fixture
def terminal(monkeypatch):
    """A terminal so wide; its output."""

    def open_one(columns, **environment):
        out = Terminal()
        monkeypatch.setattr(tables.sys, "stdout", out)
        for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"COLUMNS": str(columns), **environment}.items():
            monkeypatch.setenv(name, value)
        return out

    return open_one


@pytest.mark.parametrize(
    ("environment", "on_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_who_gets_colour(environment, on_terminal, elsewhere):
    assert has_colour(Terminal(), environment) is on_terminal
    assert has_colour(io.StringIO(), environment) is elsewhere


def test_colour_leaves_the_text_as_it_is():
    lines = list(leaderboard_text(FRAME))
    painted = list(coloured(lines))
    assert [ANSI.sub("", line) for line in painted] == lines
    assert painted != lines


def test_what_is_coloured():
    _, best, worst = coloured(leaderboard_text(FRAME))
    assert "\x1b[33mfew-images zero-gradient\x1b[0m" in best
    assert "\x1b[33m" not in worst
    # The worst case of the best is bold; 86 % and 85 % have the last blue, 10 % and 5 % the first.
    assert "\x1b[1;38;5;231;48;5;38m85.0%\x1b[0m" in best
    assert "\x1b[38;5;231;48;5;38m86.0%\x1b[0m" in best
    assert "\x1b[38;5;231;48;5;17m10.0%\x1b[0m" in worst
    assert "\x1b[38;5;231;48;5;17m5.0%\x1b[0m" in worst
    # The clean accuracy is no robust one.
    assert " 99.0%" in best


def test_an_empty_cell_has_no_colour():
    rows = list(
        coloured(leaderboard_text(board((1, "a", None, None, ""), (None, "b", 0.5, None, "few-images"))))
    )
    assert "\x1b" not in rows[1]
    assert rows[2].count("\x1b[") == 4


def test_the_matrix_is_shaded():
    frame = pd.DataFrame(
        [(s, t, "pgd", "false", "Linf:0.1", 0.2 if s == t else 1.0) for s in "ab" for t in "ab"],
        columns=["source", "target", "attack", "early_stop", "threat", "robust"],
    )
    lines = list(matrix_text(frame))
    painted = list(coloured(lines))
    assert [ANSI.sub("", line) for line in painted] == lines
    assert sum(line.count("48;5;38m100.0%") for line in painted) == 2
    assert sum(line.count("48;5;18m20.0%") for line in painted) == 2


def test_other_text_passes_as_it_is():
    lines = ["switch of a+b at Linf:0.1", "  T0  pgd  50.0%  (40.0-60.0)", "", "rank and file", "50.0%"]
    assert list(coloured(lines)) == lines


def test_elsewhere_nothing_is_cut_or_coloured(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    show({"leaderboard": FRAME}, text_of)
    assert capsys.readouterr().out == "\n".join(leaderboard_text(FRAME)) + "\n"


def test_forced_colour_cuts_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show({"leaderboard": FRAME}, text_of)
    out = capsys.readouterr().out
    assert out != ANSI.sub("", out) == "\n".join(leaderboard_text(FRAME)) + "\n"


def test_names_are_cut_to_the_terminal(terminal):
    widest = max(map(len, leaderboard_text(FRAME)))
    out = terminal(widest, NO_COLOR="1")
    show({"leaderboard": FRAME}, text_of)
    assert LONG in out.getvalue()
    out = terminal(widest - 10, NO_COLOR="1")
    show({"leaderboard": FRAME}, text_of)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) == widest - 10  # no shorter than it must be
    assert "…" in lines[2]
    assert "-0.05 " in lines[2]  # the end of a name tells one from another
    assert "forwards" in lines[0]


def test_a_narrow_terminal_goes_without_costs_and_never_without_flags(terminal):
    cut = FRAME.assign(model=["best", "x" * tables.SHORTEST])
    out = terminal(max(map(len, leaderboard_text(cut))) - 1, NO_COLOR="1")
    show({"leaderboard": FRAME}, text_of)
    assert "forwards" not in out.getvalue()
    assert "few-images zero-gradient" in out.getvalue()
    out = terminal(20, NO_COLOR="1")
    show({"leaderboard": FRAME}, text_of)
    assert "kept_weights" not in out.getvalue()
    assert "few-images zero-gradient" in out.getvalue()
    assert LONG not in out.getvalue()


def test_a_matrix_is_cut_too(terminal):
    names = [f"{LONG}-{number}" for number in range(4)]
    frame = pd.DataFrame(
        [(s, t, "pgd", "false", "Linf:0.1", 0.5) for s in names for t in names],
        columns=["source", "target", "attack", "early_stop", "threat", "robust"],
    )
    out = terminal(100)
    show({"transfer": frame}, lambda frames: matrix_text(frames["transfer"]))
    lines = ANSI.sub("", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 6
    assert all(f"-{number} " in f"{lines[1]} " for number in range(4))


@given(st.lists(st.text(min_size=1, max_size=40), unique=True), st.integers(12, 30))
def test_shortened_names_fit_and_stay_different(names, most):
    short = shortened(names, most)
    assert list(short) == names
    assert len(set(short.values())) == len(names)
    assert all(len(name) <= most for name in short.values())


def test_a_name_moves_nothing_on_the_terminal(capsys):
    show({}, lambda frames: ["row \x1b[31mred\x1b[2J\nnext\u202e"])
    assert capsys.readouterr().out == "row \ufffd[31mred\ufffd[2J\ufffdnext\ufffd\n"
