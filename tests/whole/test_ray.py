"""`--executor ray`: the answers of one process, bit for bit; models loaded once; nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent.parent
needs_ray = pytest.mark.usefixtures("ray_is_there")


@pytest.fixture(scope="module")
def ray_is_there():
    """In a process of its own only: Ray leaves threads and handlers behind, and warns."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('ray') is None)"
    if subprocess.run([sys.executable, "-c", code], check=False).returncode:
        pytest.skip("Ray is not installed: pip install 'rstbench[ray]'")


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}


def python(code, folder, timeout=300):
    """Run code in a process; returns what it prints."""
    (folder / "code.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "code.py"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


SAME = """
from dataclasses import replace
from pathlib import Path
import torch
from rstbench.attacks import AttackSpec
from rstbench.certificates import CertificateSpec
from rstbench.data import load
from rstbench.evaluation.evaluate import EvalSetting, run_tasks
from rstbench.evaluation.executors import Local
from rstbench.evaluation.task import Task, certificate_task, clean_task
from rstbench.evaluation.workers import executor_for
from rstbench.evidence.store import Store
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat

if __name__ == "__main__":
    Path("raises.py").write_text(
        "from torch import nn\\nclass Raises(nn.Module):\\n"
        "    def forward(self, x):\\n        if x.requires_grad: raise ValueError('no gradient')\\n"
        "        return x.flatten(1)[:, :10]\\n"
    )
    data, cpu, threat = load("digits:test:40"), torch.device("cpu"), Threat.parse("Linf:0.1")
    models = [load_reference(f"ticket:{path}", data) for path in sorted(Path(".").glob("*.safetensors"))]
    models.append(load_reference("file:raises.py:Raises", data))
    tasks = [clean_task(model) for model in models]
    for text in ("pgd:steps=2", "apgd:steps=3"):
        tasks += [Task(model, tuple(models[:2]), AttackSpec.parse(text), threat) for model in models]
    tasks += [certificate_task(model, CertificateSpec.parse("ibp"), threat) for model in models[:2]]
    found = {}
    with executor_for(2, cpu, text="ray") as actors:
        for executor in (Local(), actors):
            store = Store(Path(type(executor).__name__))
            setting = EvalSetting(data, 10, cpu, executor)
            faults = sorted(map(str, run_tasks(tasks, setting, store, returned=0)))
            read = {key: store.read(key).shards for key in store.keys()}
            lines = {(k, s.start): replace(s, seconds=0) for k, shards in read.items() for s in shards}
            found[type(executor).__name__] = faults, lines
        import ray
        loads = ray.get([actor.handle.count_loads.remote() for actor in actors._actors])
    assert found["Local"] == found["RayActors"]
    faults, lines = found["Local"]
    assert len(faults) == 2, faults
    assert len(lines) == 4 * (3 + 2 * 4 + 2), len(lines)
    # Two tickets and four spans of images, once an actor, for 24 shards and more.
    assert max(loads) <= 6, loads
    print("alike")
"""


@needs_ray
def test_actors_answer_as_one_process_does(ticket_files, tmp_path):
    for path in ticket_files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert python(SAME, tmp_path) == "alike\n"


def evaluate(folder, *more, wait=True):
    (folder / "s.toml").write_text(STUDY)
    command = [
        sys.executable,
        "-m",
        "rstbench",
        "evaluate",
        "s.toml",
        "--crafting",
        "exact",
        "--quiet",
        *more,
    ]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return (process, *process.communicate()) if wait else process


STUDY = """
name = "s"
data = "digits:test"
threats = ["Linf:0.1"]
attacks = ["pgd:steps=20,restarts=5"]
images = 100
[[draw]]
name = "rst"
network = "conv2"
width = 0.1
remaining = [0.3, 0.6]
data = "digits:train:256"
epochs = 2
batch = 32
[[train]]
name = "dense"
network = "conv2"
width = 0.1
data = "digits:train:256"
epochs = 1
batch = 32
"""


def without_seconds(path):
    frame = pd.read_csv(path)
    return frame.drop(columns=[name for name in frame if "seconds" in name])


@needs_ray
@pytest.mark.slow
def test_a_study_survives_its_actors_and_leaves_none_when_it_is_killed(tmp_path):
    """Drawn, trained and attacked by actors; one is killed, then the run, then the same command ends it."""
    process, _, errors = evaluate(tmp_path, "--out", "alone", "--workers", "1", "--batch-size", "5")
    assert process.returncode == 0, errors
    how = ("--out", "out", "--executor", "ray", "--batch-size", "5", "--workers", "2")
    process = evaluate(tmp_path, *how, wait=False)
    wait_for(lambda: list(tmp_path.glob("out/tickets/*.safetensors")), process)
    os.kill(actors_below(process.pid)[0], signal.SIGKILL)
    wait_for(lambda: evidence(tmp_path / "out") > 5, process)
    left = {each: Path(f"/proc/{each}/cmdline").read_text() for each in below(process.pid)}
    # Two agents of Ray, which have nothing of the run, try for a minute to tell of their raylet's end.
    agents = {
        each for each, name in left.items() if name.startswith(("ray::DashboardAgent", "ray::RuntimeEnv"))
    }
    assert len(left.keys() - agents) > 3
    process.kill()
    process.communicate()
    wait_for_end(left.keys() - agents, 30)
    wait_for_end(agents, 120)
    process, out, errors = evaluate(tmp_path, *how)
    assert (process.returncode, errors) == (0, "")
    assert out.split()[:2] == ["rank", "model"], "Ray prints among the tables"
    boards = [without_seconds(tmp_path / name / "leaderboard.csv") for name in ("alone", "out")]
    pd.testing.assert_frame_equal(*boards)


def wait_for(reached, process):
    deadline = time.monotonic() + 400
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_end(processes, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(is_alive, processes)):
        time.sleep(0.2)
    assert not any(map(is_alive, processes)), "Ray outlives the run"


def evidence(out):
    return sum(path.read_bytes().count(b"\n") - 1 for path in out.glob("results/*.jsonl"))


def below(pid):
    """The processes that a process has begun, and theirs."""
    found = subprocess.run(
        ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    return [int(each) for each in found] + [inner for each in found for inner in below(each)]


def actors_below(pid):
    return [each for each in below(pid) if "ray::RayWorker" in Path(f"/proc/{each}/cmdline").read_text()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@needs_ray
@pytest.mark.parametrize(
    ("executor", "message"),
    [
        ("ray:127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("ray:ray://head:10001", "wants auto or HOST:PORT"),
        ("ray:", "--executor reads local, ray or ray:ADDRESS"),
        ("dask", "--executor reads local, ray or ray:ADDRESS"),
    ],
)
def test_no_cluster_is_one_line(tmp_path, cli, executor, message):
    done = cli(
        "draw", "--data", "digits", "--remaining", "0.5", "--out", "t", "--quiet", "--executor", executor
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "t").exists()


def test_without_ray_the_extra_is_named(cli, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = cli("draw", "--data", "digits", "--remaining", "0.5", "--out", "t", "--quiet", "--executor", "ray")
    assert (done.returncode, done.stderr) == (
        2,
        "rstbench: --executor ray wants Ray: pip install 'rstbench[ray]'\n",
    )
