"""Several workers: what a study makes side by side is what one process makes, also after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

ROOT = Path(__file__).parent.parent.parent
STUDY = """
data = "digits:test"
threats = ["Linf:0.1"]
attacks = ["pgd:steps=2"]
images = 20
seeds = [0, 1]
[[draw]]
name = "rst"
network = "conv2"
width = 0.1
remaining = [0.3, 0.6]
data = "digits:train:256"
epochs = 2
batch = 32
[[draw]]
name = "rtt"
from = "dense"
remaining = [0.3]
data = "digits:train:256"
epochs = 1
batch = 32
[[train]]
name = "dense"
network = "conv2"
width = 0.1
data = "digits:train:256"
epochs = 2
batch = 32
[[train]]
name = "ft"
from = "rst"
weights = "reinit"
data = "digits:train:256"
epochs = 1
batch = 32
"""


def run(folder, workers, threads, *, wait=True):
    (folder / "s.toml").write_text(STUDY)
    # Exact: two folders may choose two fast copies, which round otherwise.
    how = ["--out", "out", "--workers", workers, "--crafting", "exact"]
    command = [sys.executable, "-m", "rstbench", "evaluate", "s.toml", *how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE)  # fmt: skip
    return (process, *process.communicate()) if wait else process


def contents(folder):
    """Return masks and weights of everything made, by file and name."""
    tensors = {}
    for path in sorted(folder.glob("out/*/*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors[path.name] = {key: file.get_tensor(key) for key in sorted(file.keys())}
    return tensors


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name][key].equal(other[name][key]) for name in one for key in one[name]
    )


@pytest.mark.slow
def test_side_by_side_gives_what_one_by_one_gives(tmp_path):
    """Two workers of one thread each, killed and continued, against one process of one thread."""
    alone, several = tmp_path / "alone", tmp_path / "several"
    alone.mkdir()
    several.mkdir()
    process, out, errors = run(alone, "1", "1")
    assert process.returncode == 0, errors
    killed = run(several, "2", "2", wait=False)
    while killed.poll() is None and not list(several.glob("out/*/*.safetensors")):
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True).stdout.split()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    killed.stderr.close()
    assert children
    deadline = time.monotonic() + 20
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(child) for child in children), "workers outlive the run"
    process, out, errors = run(several, "2", "2")
    assert process.returncode == 0, errors
    assert "2 at a time" in errors
    assert len(contents(alone)) == 2 * (2 + 1 + 1 + 2)
    assert same(contents(alone), contents(several))
    assert "mean of 2 seeds" in out
    boards = [
        pd.read_csv(folder / "out" / "leaderboard.csv").drop(columns="seconds") for folder in (alone, several)
    ]
    pd.testing.assert_frame_equal(*boards)
    frame = pd.read_csv(several / "out" / "ratios.csv").set_index(["setting", "ratio"])
    assert frame["seeds"].tolist() == [2] * 6
    board = pd.read_csv(several / "out" / "leaderboard.csv").set_index("model")
    both = board.loc[["ft-0.3-seed0", "ft-0.3-seed1"], "pgd:steps=2"]
    assert frame.loc[("ft", 0.3), "pgd:steps=2"] == pytest.approx(both.mean())
    assert frame.loc[("ft", 0.3), "pgd:steps=2_sd"] == pytest.approx(both.std(), abs=1e-6)
    history = pd.read_csv(several / "out" / "tickets" / "history.csv")
    assert history["name"].nunique() == 12


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_begins_from_a_failure_is_named_too(tmp_path, cli, workers):
    text = STUDY.replace("seeds = [0, 1]", "").replace(
        'name = "dense"', 'name = "dense"\nlr = 1e30\nnorm = "none"'
    )
    (tmp_path / "s.toml").write_text(text)
    done = cli("evaluate", "s.toml", "--quiet", "--out", "out", "--workers", workers)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert "rtt-0.3: dense-seed0 is missing" in (first + second)
    assert "dense: the loss is" in (first + second)
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert sorted(board["model"]) == ["ft-0.3", "ft-0.6", "rst-0.3", "rst-0.6"]
