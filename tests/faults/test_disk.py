"""Disks that are full or only read, files that are damaged, two runs in one folder, and the clock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.faults
SAME = "the same command finishes; every CSV equals that of an undisturbed run"
FULL = {
    "drawing": [["rstbench.study.build:_advance", 1]],
    "saving a network": [["rstbench.tickets.checkpoint:Checkpoint.save", 1]],
    "saving the manifest": [["rstbench.evidence.manifest:Manifest.save", 1]],
    "storing": [["rstbench.evidence.store:Store.add", 3]],
    "collecting examples": [["rstbench.evidence.examples:join_parts", 1]],
    "writing tables": [["rstbench.study.run:write", 1]],
    "drawing figures": [["rstbench.study.run:write_report", 1]],
    "writing the page": [["rstbench.reports.page.write:write_page", 1]],
}


def mounted(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(folder):
    """A small disk of its own, on which the folder's `out` is; None where none may be mounted."""
    place = folder.root / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)):
        yield None
        return
    folder.out = place / "out"
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def filling(disk, point):
    return {"at": point, "do": ["fill", str(disk / "filler")] if disk else ["limit_files"]}


def is_full(errors):
    return len(errors) == 1 and errors[0].endswith(
        "; make room, and the same command goes on where it stopped"
    )


@pytest.mark.parametrize("stage", FULL)
def test_a_full_disk(folder, disk, tables, outcome, stage):
    status, errors = folder.run(fault=filling(disk, FULL[stage]))
    assert status == 1
    assert is_full(errors), errors
    assert str(folder.out) in errors[0]
    if disk:
        (disk / "filler").unlink()
    folder.finishes(tables)
    outcome("a full disk", stage, f"one line, exit 1; once there is room {SAME}")


def test_packing_to_a_full_disk(folder, disk, undisturbed, tables, outcome):
    shutil.copytree(undisturbed.out, folder.out)
    point = [["rstbench.evidence.packing:write_pack", 1]]
    status, errors = folder.run("pack", folder.out, fault=filling(disk, point))
    assert status == 1
    assert is_full(errors), errors
    if disk:
        (disk / "filler").unlink()
    assert folder.run("pack", folder.out) == (0, [])
    folder.finishes(tables)
    assert not (folder.out / "results").exists()
    outcome("a full disk", "packing", f"one line, exit 1; no answer is lost; {SAME}")


@pytest.mark.parametrize("verb", ["evaluate", "report", "pack"])
def test_a_disk_that_may_only_be_read(folder, disk, undisturbed, tables, outcome, verb):
    if disk is None:
        pytest.skip("no disk may be mounted here, and root may write anywhere else")
    shutil.copytree(undisturbed.out, folder.out)
    newest = max((folder.out / "results").iterdir())
    newest.write_bytes(newest.read_bytes().splitlines(keepends=True)[0])  # something is left to be asked
    assert mounted("-o", "remount,ro", str(disk))
    before = {path: path.stat().st_mtime_ns for path in folder.out.rglob("*")}
    command = () if verb == "evaluate" else (verb, folder.out)
    status, errors = folder.run(*command)
    assert status == 2
    assert len(errors) == 1
    assert "Read-only file system" in errors[0]
    assert before == {path: path.stat().st_mtime_ns for path in folder.out.rglob("*")}
    assert mounted("-o", "remount,rw", str(disk))
    folder.finishes(tables)
    outcome("a read-only disk", verb, f"one line, exit 2; {SAME}")


def half(content):
    return content[: len(content) // 2]


# What is left of a file's content, which file, and whether a person must delete it.
DAMAGE = {
    "evidence: a torn last line": (lambda content: content[:-25], "results/*.jsonl", False),
    "evidence: a torn header": (lambda content: content[:40], "results/*.jsonl", False),
    "evidence: empty": (lambda content: b"", "results/*.jsonl", False),
    "evidence: zeros after the last line": (lambda content: content + bytes(100), "results/*.jsonl", False),
    "evidence: zeros in a line": (
        lambda content: content[:-30] + bytes(29) + b"\n",
        "results/*.jsonl",
        True,
    ),
    "manifest: cut": (half, "study.toml", True),
    "a ticket: cut": (half, "tickets/*.safetensors", True),
    "a checkpoint: empty": (lambda content: b"", "checkpoints/*.safetensors", True),
    "kept images: cut": (half, "examples.npz", True),
    "the log: cut": (half, ".agenda", False),
    "what is known of figures: cut": (half, "figures/.written", False),
    "a table: cut": (half, "leaderboard.csv", False),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file(folder, undisturbed, tables, outcome, name):
    left, pattern, is_deleted = DAMAGE[name]
    shutil.copytree(undisturbed.out, folder.out)
    victim = sorted(folder.out.glob(pattern))[0]
    victim.write_bytes(left(victim.read_bytes()))
    if is_deleted:
        status, errors = folder.run()
        assert status == 2
        assert len(errors) == 1
        assert str(victim) in errors[0]
        assert "delete" in errors[0]
        victim.unlink()
    folder.finishes(tables)
    first = "one line names it, exit 2; once it is deleted " if is_deleted else ""
    outcome("a damaged file", name, first + SAME)


def test_a_damaged_file_of_unfinished_work(folder, tables, outcome):
    point = [["rstbench.study.build:Builder._train", 1], ["rstbench.study.build:_advance", 2]]
    folder.run(fault={"at": point, "do": ["kill"]})
    (victim,) = folder.out.glob("checkpoints/.*.unfinished")
    victim.write_bytes(half(victim.read_bytes()))
    status, errors = folder.run()
    assert (status, len(errors)) == (2, 1)
    assert f"{victim} is damaged; delete it" in errors[0]
    victim.unlink()
    folder.finishes(tables)
    outcome("a damaged file", "unfinished work: cut", f"one line names it, exit 2; once it is deleted {SAME}")


def test_two_writers_at_once(folder, tables, outcome):
    reached, go = folder.root / "reached", folder.root / "go"
    point = [["rstbench.evidence.store:Store.add", 4]]
    first = folder.start(fault={"at": point, "do": ["pause", str(reached), str(go)]})
    deadline = time.monotonic() + 120
    while not reached.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    for command in ((), ("pack", folder.out)):
        status, errors = folder.run(*command)
        assert (status, len(errors)) == (2, 1)
        assert f"another run is writing to {folder.out}" in errors[0]
    go.touch()
    assert folder.end(first) == (0, [])
    reached.unlink()
    go.unlink()
    assert folder.tables() == tables
    folder.finishes(tables)
    outcome(
        "two runs in one folder", "storing", "the second is refused in one line, exit 2; the first finishes"
    )


def test_a_lock_without_its_process(folder, undisturbed, tables, outcome):
    shutil.copytree(undisturbed.out, folder.out)
    shutil.rmtree(folder.out / "results")
    (folder.out / ".lock").write_text("4194304")
    folder.finishes(tables)
    outcome("a stale lock", "", SAME)


def test_the_clock_jumps_back(folder, tables, outcome):
    point = [["rstbench.evidence.store:Store.add", 3]]
    assert folder.run(fault={"at": point, "do": ["set_clock_back", 86400]}) == (0, [])
    assert folder.tables() == tables
    assert folder.run("status", folder.out) == (0, [])
    # As seen now all was written tomorrow.
    tomorrow = time.time() + 86400
    for path in folder.out.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    assert folder.run("status", folder.out) == (0, [])
    folder.finishes(tables)
    outcome("the clock jumps back a day", "storing", f"the run finishes; {SAME}")


def test_killed_before_the_clock_jumps_back(folder, tables, outcome):
    point = [["rstbench.evaluation.shard:_craft", 2]]
    status, _ = folder.run(fault={"at": point, "do": ["kill"]})
    assert status == -signal.SIGKILL
    again = [["rstbench.evidence.manifest:Manifest.save", 1]]
    assert folder.run(fault={"at": again, "do": ["set_clock_back", 86400]}) == (0, [])
    folder.finishes(tables)
    outcome("the clock jumps back a day", "after a kill", SAME)
