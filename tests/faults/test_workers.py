"""Workers that die or have no memory, and models that hang, need too much, or change while they are asked."""

from __future__ import annotations

import os
import re
import signal
import time

import pandas as pd
import pytest

pytestmark = pytest.mark.faults
SAME = "the same command finishes; every CSV equals that of an undisturbed run"
CRAFTING = [["rstbench.evaluation.shard:_craft", 1]]
MAKING = [["rstbench.study.build:_advance", 1]]


@pytest.fixture
def two(folder):
    """The study's command with two workers."""
    return folder.evaluate("--workers", 2)


def empty_cells(folder, column):
    """Return the names of the models without an answer."""
    frame = pd.read_csv(folder.out / "leaderboard.csv")
    return sorted(frame.loc[frame[column].isna() & frame["worst"].isna(), "model"])


def test_a_worker_is_killed(nearly, two, tables, outcome):
    fault = {"at": CRAFTING, "do": ["kill"], "worker": True, "once": str(nearly.root / "struck")}
    assert nearly.run(*two, fault=fault) == (0, [])
    assert (nearly.root / "struck").exists()
    assert nearly.tables() == tables
    nearly.finishes(tables, *two)
    outcome("a worker is killed (SIGKILL)", "an attack", f"its shard is asked once more, exit 0; {SAME}")


def test_each_worker_is_killed(nearly, two, tables, outcome):
    status, errors = nearly.run(*two, fault={"at": CRAFTING, "do": ["kill"], "worker": True})
    assert status == 1
    assert len(errors) == 1
    assert "net, pgd:steps=2: a worker process was killed, perhaps for want of memory" in errors[0]
    assert empty_cells(nearly, "pgd:steps=2") == ["net"]
    nearly.finishes(tables, *two)
    outcome("each worker is killed (SIGKILL)", "an attack", f"a named empty cell, exit 1; {SAME}")


def test_a_worker_is_killed_while_it_makes_a_network(folder, two, tables, outcome):
    status, errors = folder.run(*two, fault={"at": MAKING, "do": ["kill"], "worker": True})
    assert (status, len(errors)) == (1, 1)
    assert "a worker process was killed" in errors[0]
    folder.finishes(tables, *two)
    outcome("a worker is killed (SIGKILL)", "making networks", f"one line, exit 1; {SAME}")


def test_a_worker_has_too_little_memory(nearly, two, tables, outcome):
    """600 MiB beside what it has; each image of one model needs 100."""
    fault = {"at": CRAFTING, "do": ["limit_memory", 600], "worker": True}
    status, errors = nearly.run(*two, fault=fault, NET_BYTES=str(100 * 2**20))
    assert (status, len(errors)) == (0, 1)
    told = r"net, pgd:steps=2: [1-5] of 10 images pass at once, for there is no memory for more"
    assert re.fullmatch(told, errors[0])
    assert nearly.tables() == tables
    nearly.finishes(tables, *two)
    outcome(
        "a worker with too little memory (RLIMIT_AS)",
        "an attack",
        "fewer images pass at once, exit 0; every CSV equals",
    )


def test_a_worker_has_no_memory(nearly, two, tables, outcome):
    fault = {"at": CRAFTING, "do": ["limit_memory", 600], "worker": True}
    status, errors = nearly.run(*two, fault=fault, NET_BYTES=str(2**30))
    assert (status, len(errors)) == (1, 1)
    assert "net, pgd:steps=2: there is no memory for even one image" in errors[0]
    assert empty_cells(nearly, "pgd:steps=2") == ["net"]
    nearly.finishes(tables, *two)
    outcome("a worker without memory (RLIMIT_AS)", "an attack", f"a named empty cell, exit 1; {SAME}")


def test_a_device_has_too_little_memory(nearly, tables, outcome):
    status, errors = nearly.run(NET_MOST="4")
    assert (status, errors) == (
        0,
        ["net, pgd:steps=2: 3 of 10 images pass at once, for there is no memory for more"],
    )
    assert nearly.tables() == tables
    nearly.finishes(tables)
    outcome(
        "a device with too little memory", "all stages", "fewer images pass at once, exit 0; every CSV equals"
    )


def test_a_device_has_no_memory(made, tables, outcome):
    status, errors = made.run(NET_MOST="0")
    assert (status, len(errors)) == (1, 1)
    assert "net: there is no memory for even one image" in errors[0]
    assert empty_cells(made, "clean") == ["net"]
    made.finishes(tables)
    outcome("a device without memory", "clean images", f"a named empty row, exit 1; {SAME}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_hangs(nearly, tables, outcome, workers):
    command = nearly.evaluate("--workers", workers, "--shard-timeout", 30)
    status, errors = nearly.run(*command, NET_HANGS="1")
    assert (status, errors) == (
        1,
        ["rstbench: net, pgd:steps=2: a shard took longer than 30 s (--shard-timeout), and was ended"],
    )
    assert empty_cells(nearly, "pgd:steps=2") == ["net"]
    nearly.finishes(tables, *command)
    outcome("a model hangs (--shard-timeout)", "an attack", f"a named empty cell, exit 1; {SAME}")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_a_model_hangs(nearly, tables, outcome, end):
    pid = nearly.start(*nearly.evaluate("--workers", 2), NET_HANGS="1")
    deadline = time.monotonic() + 120
    while not list(nearly.root.glob("hanging")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(pid, end)
    assert nearly.end(pid)[0] in (130, -signal.SIGKILL)
    nearly.finishes(tables)
    name = "Ctrl-C (SIGINT)" if end == signal.SIGINT else "the process is killed (SIGKILL)"
    outcome(name, "a worker hangs", f"no process is left; {SAME}")


OTHER = "net.py.other"


@pytest.fixture
def other_net(made):
    """The file of another network."""
    text = (made.root / "net.py").read_text()
    (made.root / OTHER).write_text(text.replace("manual_seed(0)", "manual_seed(1)"))
    (made.root / "net.py.own").write_text(text)
    return lambda: (made.root / "net.py").write_text(text)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_models_file_changes_between_two_shards(made, tables, outcome, other_net, workers):
    """What was loaded is asked to the end; the changed file is another model's."""
    command = made.evaluate("--workers", workers)
    point = [["rstbench.evidence.store:Store.add", 5]]
    change = ["copy", str(made.root / OTHER), str(made.root / "net.py")]
    assert made.run(*command, fault={"at": point, "do": change}) == (0, [])
    assert made.tables() == tables
    assert made.run(*command) == (0, [])
    assert made.tables() != tables
    other_net()
    made.finishes(tables, *command)
    outcome(
        "a model's file changes",
        "between two shards",
        f"the model that was loaded is asked to the end; {SAME}",
    )


def test_a_models_file_changes_where_it_must_be_loaded_again(made, tables, outcome, other_net):
    command = made.evaluate("--workers", 1, "--shard-timeout", 100)
    point = [["rstbench.study.run:run_tasks", 1]]
    change = ["copy", str(made.root / OTHER), str(made.root / "net.py")]
    status, errors = made.run(*command, fault={"at": point, "do": change})
    assert (status, len(errors)) == (1, 1)
    assert "net is another model in this process" in errors[0]
    assert empty_cells(made, "clean") == ["net"]
    other_net()
    made.finishes(tables, *command)
    outcome(
        "a model's file changes",
        "before it is loaded by a worker that may be ended",
        f"a named empty row, exit 1; {SAME}",
    )


def test_a_models_file_changes_after_a_kill(made, tables, outcome, other_net):
    point = [["rstbench.evidence.store:Store.add", 12]]
    status, _ = made.run(fault={"at": point, "do": ["kill"]})
    assert status == -signal.SIGKILL
    (made.root / "net.py").write_text((made.root / OTHER).read_text())
    assert made.run() == (0, [])
    assert made.tables() != tables
    other_net()
    made.finishes(tables)
    outcome(
        "a model's file changes", "between two runs", f"it is another model, with all answers its own; {SAME}"
    )
