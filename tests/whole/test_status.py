"""`status` beside a run that goes, was killed, went on and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

MODEL = """
import time
from pathlib import Path
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        while x.requires_grad and len(x) == 10 and Path(__file__).with_name("wait").exists():
            time.sleep(0.05)
        return self.net(x)

class Bad(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken")

slow, bad = Slow, Bad
"""


def evaluate(folder):
    models = ["file:m.py:slow", "file:m.py:bad"]
    asked = ["--data", "digits:test:20", "--threat", "Linf:0.1", "--attack", "pgd:steps=2"]
    return ["evaluate", *models, *asked, "--batch-size", "10", "--out", str(folder)]


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks")
def test_from_another_terminal(cli, tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "wait").write_text("")
    out = tmp_path / "out"
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    run = subprocess.Popen(
        [sys.executable, "-m", "rstbench", *evaluate(out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        said = ""
        while "broken" not in said and time.monotonic() < until and run.poll() is None:
            time.sleep(0.3)
            said = cli("status", "out").stdout
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert said.startswith("out: attacking, for ")
    # The bad model fails on clean images and is asked nothing more; the slow one waits in its first attack.
    assert "2 of 4 clean" in said
    assert "0 of 4 pgd:steps=2" in said
    assert "  failures  1\n" in said
    assert cli("status", "out").stdout.startswith("out: stopped; the same command continues")
    (tmp_path / "wait").unlink()
    assert cli(*evaluate(out)).returncode == 1
    said = cli("status", "out").stdout
    assert said.startswith("out: done, but for what failed")
    assert "2 of 4 pgd:steps=2" in said


def test_what_is_no_run(cli, tmp_path):
    done = cli("status", tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
