"""Files that are written whole, lines that are added, and what a killed process leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rstbench.evidence.store import Store
from rstbench.files import append, fill_folder, remove_drafts


@pytest.fixture
def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_process_left_half_written_goes_with_it(tmp_path, gone):
    mine, theirs = tmp_path / f".a.csv.{os.getpid()}.part", tmp_path / f".a.csv.{gone}.part"
    others = [
        tmp_path / name for name in (f"a.{gone}.part", f".{gone}.part", ".a.part", f".a.{gone}.part.txt")
    ]
    for path in (mine, theirs, *others):
        path.touch()
    remove_drafts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, *others])


def test_a_run_removes_drafts_of_killed_ones(tmp_path, gone):
    (tmp_path / "figures").mkdir()
    drafts = [tmp_path / f".study.toml.{gone}.part", tmp_path / "figures" / f".a.png.{gone}.part"]
    for draft in drafts:
        draft.touch()
    with Store(tmp_path).lock():
        assert not any(draft.exists() for draft in drafts)


def test_a_new_folder_takes_the_place_of_a_draft(tmp_path, gone):
    for name in (f".out[1].{gone}.part", f".other.{gone}.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    fill_folder(tmp_path / "out[1]", {"a": b"1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".other.{gone}.part", "out[1]"]


def test_a_file_that_cannot_grow_is_named(tmp_path):
    append(tmp_path / "a", b"1\n")
    append(tmp_path / "a", b"2\n", sync=True)
    assert (tmp_path / "a").read_bytes() == b"1\n2\n"
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append(Path("/dev/full"), b"1")
