"""Actors, machines and the command itself die while a Ray cluster of two nodes on this machine works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults
ORPHANS_END = 30.0  # seconds
SAME = "every CSV equals that of an undisturbed run"
# Each node is a process tree of its own, as `ray start` makes one; an actor has the one core of each.
CLUSTER = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(other, allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()
"""


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rstbench[ray]'")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    process = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield Cluster(process)
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


class Cluster:
    def __init__(self, process):
        self.process = process
        self.address = process.stdout.readline().strip()

    def kill_a_node(self):
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"

    def actors(self):
        """Return the ids of the processes of actors."""
        found, unseen = [], [self.process.pid]
        while unseen:
            parent = unseen.pop()
            for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
                unseen += map(int, tasks.read_text().split())
            if "ray::RayWorker" in Path(f"/proc/{parent}/cmdline").read_text():
                found.append(parent)
        return found


@pytest.fixture
def longer(made):
    """The folder, with attacks that take long enough to be struck; `alone` is for an undisturbed run."""
    text = (made.root / "study.toml").read_text().replace("pgd:steps=2", "pgd:steps=20,restarts=10")
    (made.root / "study.toml").write_text(text.replace("images = 20", "images = 60"))
    for name in ("tickets", "checkpoints"):
        shutil.copytree(made.out / name, made.root / "alone" / name)
    return made


def command(folder, cluster):
    return folder.evaluate("--executor", f"ray:{cluster.address}", "--batch-size", 5)


def alone(folder):
    """Return the tables of a run without Ray."""
    arguments = [str(folder.root / "alone") if each == folder.out else each for each in folder.evaluate()]
    assert folder.run(*arguments, "--batch-size", 5) == (0, [])
    return folder.tables(folder.root / "alone")


def answered(folder):
    return sum(path.read_bytes().count(b"\n") - 1 for path in folder.out.glob("results/*.jsonl"))


def wait_until(reached, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begin(folder, cluster):
    """Start the command, and wait until attacked shards are stored."""
    pid = folder.start(*command(folder, cluster))
    wait_until(lambda: answered(folder) > 40)  # of which 36 are clean
    return pid


@pytest.mark.parametrize("what", ["an actor", "a node"])
def test_an_actor_or_its_machine_dies(longer, cluster, outcome, what):
    pid = begin(longer, cluster)
    if what == "an actor":
        os.kill(cluster.actors()[0], signal.SIGKILL)
    else:
        cluster.kill_a_node()
    assert longer.end(pid) == (0, [])
    assert longer.tables() == alone(longer)
    name = "an actor of Ray is killed (SIGKILL)" if what == "an actor" else "one of two nodes of Ray dies"
    outcome(name, "an attack", f"its shards are asked again, exit 0; {SAME}")


def test_the_command_dies(longer, cluster, outcome):
    pid = begin(longer, cluster)
    assert cluster.actors()
    os.kill(pid, signal.SIGKILL)
    assert longer.end(pid)[0] == -signal.SIGKILL
    wait_until(lambda: not cluster.actors(), ORPHANS_END)
    assert longer.run(*command(longer, cluster)) == (0, [])
    assert longer.tables() == alone(longer)
    outcome(
        "the process is killed (SIGKILL)",
        "an attack, by actors of Ray",
        f"no actor is left after 30 s; the same command finishes; {SAME}",
    )
