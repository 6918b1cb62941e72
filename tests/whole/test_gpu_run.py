"""The script that measures a GPU, tried on the CPU."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.gpu.pieces import FOLDER, join, split

SCRIPT = Path(__file__).parents[1] / "gpu" / "run.py"
PARTS = ("attacks", "speeds", "matrix", "learning", "verdicts")


def dry_run(out, *parts):
    only = [word for part in parts for word in ("--only", part)]
    command = [sys.executable, str(SCRIPT), "--dry-run", "--out", str(out), "--minutes", "10", *only]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (out / "parts.csv").open(newline="") as file:
        return {row["part"]: row["outcome"] for row in csv.DictReader(file)}


def test_every_part_is_done_and_asks_nothing_twice(tmp_path):
    outcomes = dry_run(tmp_path, *PARTS)
    assert outcomes["attacks"] == "done"
    assert outcomes["learning"] == "done"
    assert outcomes["matrix"].startswith("2 tickets, 20 images")
    assert outcomes["verdicts"] == "2 tickets, 1 dense"
    passes = pd.read_csv(tmp_path / "passes.csv")
    assert set(passes["form"]) == {"module", "exact", "fast"}
    assert (passes["images_per_second"] > 0).all()
    table = (tmp_path / "README.md").read_text()
    assert table.count("| autoattack | 20 |") == table.count("| pgd | 20 |") == 2
    board = pd.read_csv(tmp_path / "study" / "leaderboard.csv")
    assert set(board["kind"]) == {"ticket", "switch", "trained"}
    assert board["worst"].notna().all()
    stored = {file: file.read_bytes() for file in tmp_path.rglob("results/*.jsonl")}
    assert dry_run(tmp_path, "attacks")["attacks"] == "done"
    assert {file: file.read_bytes() for file in tmp_path.rglob("results/*.jsonl")} == stored


def test_pieces_are_joined_to_what_they_were_and_damage_is_seen(tmp_path):
    folder = tmp_path / "data" / FOLDER
    folder.mkdir(parents=True)
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(name.encode() * 1_000_000)
    pieces = split(tmp_path / "data", tmp_path / "pieces")
    assert len(pieces) > 1
    assert max(piece.stat().st_size for piece in pieces) < 25_000_000
    joined = join(tmp_path / "pieces", tmp_path / "joined") / FOLDER
    assert {file.name: file.read_bytes() for file in joined.iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }
    assert join(tmp_path / "data", tmp_path / "other") == tmp_path / "data"
    pieces[0].unlink()
    with pytest.raises(ValueError, match="not all there"):
        join(tmp_path / "pieces", tmp_path / "again")
