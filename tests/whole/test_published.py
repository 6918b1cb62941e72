"""What is published follows from the evidence beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from rstbench.cli.commands import main
from rstbench.tickets.ticket import Ticket

PUBLISHED = Path(__file__).parent.parent.parent / "leaderboards"
FOLDERS = sorted(path.parent for path in PUBLISHED.glob("**/study.toml"))
WITH_TICKETS = sorted(path.parent for path in PUBLISHED.glob("*/study.toml"))  # ablations leave theirs out


def name_of(folder):
    return str(folder.relative_to(PUBLISHED))


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_tables_follow_from_the_evidence(folder, tmp_path, capsys):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    tables = {path.name: path.read_bytes() for path in copy.glob("*.csv")}
    for name in tables:
        (copy / name).unlink()
    assert main(["report", str(copy)]) == 0
    assert {path.name: path.read_bytes() for path in copy.glob("*.csv")} == tables
    assert capsys.readouterr().out.startswith("rank")


@pytest.mark.parametrize("folder", WITH_TICKETS, ids=name_of)
def test_the_tickets_are_whole_and_of_one_network(folder):
    tickets = [Ticket.load(path) for path in sorted(folder.glob("tickets/*.safetensors"))]
    assert tickets
    assert len({(ticket.recipe.seed, ticket.random_digest) for ticket in tickets}) == len(
        {ticket.recipe.seed for ticket in tickets}
    )
    board = pd.read_csv(folder / "leaderboard.csv").set_index("model")
    for ticket, path in zip(tickets, sorted(folder.glob("tickets/*.safetensors")), strict=True):
        name = path.stem.rpartition("-seed")[0]
        assert set(board.loc[[name], "kept_weights"]) == {ticket.kept_weights}


def test_every_column_is_explained():
    shared = (PUBLISHED / "digits" / "README.md").read_text()
    for folder in FOLDERS:
        readme = next(path for path in (folder / "README.md", folder.parent / "README.md") if path.exists())
        text = shared + readme.read_text()
        for path in folder.glob("*.csv"):
            for column in pd.read_csv(path, nrows=0).columns:
                assert f"`{column}`" in text, f"{path.name}: {column}"
