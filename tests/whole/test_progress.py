"""Progress from inside a shard, where output is no terminal, and from another terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TICKET = ROOT / "leaderboards" / "digits" / "tickets" / "rst-0.05-seed0.safetensors"
# Waits in the attack alone, and only while the file `wait` lies beside it.
MODEL = """
import time
from pathlib import Path
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        if x.requires_grad and Path(__file__).with_name("wait").exists():
            time.sleep(0.05)
        return self.net(x)

slow = Slow
"""
FIGURES = r"in pgd( of images 0-9|): 10 left, robust [01]\.\d\d so far, \S+ passes/s(, \d+ \S+ left)?"


def evaluate(model, steps, out, *more):
    """With momentum no image goes in circles, where PGD stops."""
    asked = ["--data", "digits:test:20", "--threat", "Linf:0.1", "--attack", f"pgd:steps={steps},momentum=1"]
    return ["evaluate", model, *asked, "--batch-size", "10", "--out", out, *more]


def start(folder, log, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-m", "rstbench", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=log,
        # A shell starts what it runs in the background deaf to interrupts, and that is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(what, *runs):
    until = time.monotonic() + 120
    while not what() and time.monotonic() < until and all(run.poll() is None for run in runs):
        time.sleep(0.2)
    assert what()


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks")
def test_inside_a_shard(cli, tmp_path):
    """In this process and in two workers, side by side, for each takes ten seconds to print a line."""
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "wait").write_text("")
    here, beside = tmp_path / "here.log", tmp_path / "beside.log"
    reports = {name: tmp_path / name / ".progress" for name in ("here", "beside")}
    with here.open("w") as log, beside.open("w") as other:
        one = start(tmp_path, log, *evaluate("file:m.py:slow", 1000, "here", "--workers", "1"))
        two = start(tmp_path, other, *evaluate(f"ticket:{TICKET}", 10**6, "beside", "--workers", "2"))
        try:
            wait_for(
                lambda: re.search(rf"pgd:\S+ Linf:0.1: 0/20 images, {FIGURES}\n", here.read_text()),
                one,
            )
            said = cli("status", "here").stdout
            assert re.search(rf"\n  now       \S+, pgd:\S+ Linf:0.1, images 0-9, {FIGURES}\n", said)
            one.kill()
            wait_for(lambda: len(re.findall(rf"\n  \S+, pgd:\S+ Linf:0.1, images \d+-\d+, {FIGURES}",
                                            beside.read_text())) >= 2, two)  # fmt: skip
            assert "0/20 images, 2 shards in pgd: 20 left, robust " in beside.read_text()
            said = cli("status", "beside").stdout
            assert sorted(re.findall(r"images (\d+-\d+), in pgd: 10 left", said)) == ["0-9", "10-19"]
            two.send_signal(signal.SIGINT)
            try:
                assert two.wait(60) != 0
            except subprocess.TimeoutExpired:
                two.send_signal(signal.SIGABRT)  # prints where its threads are
                two.wait()
                pytest.fail(beside.read_text())
        finally:
            for run in (one, two):
                run.kill()
                run.wait()
    assert not reports["beside"].exists()  # an interrupted run takes its reports with it
    assert len(list(reports["here"].glob("*.json"))) == 1  # a killed one cannot
    said = cli("status", "here").stdout
    assert said.startswith("here: stopped")
    assert "in pgd" not in said
    (tmp_path / "wait").unlink()
    assert cli(*evaluate("file:m.py:slow", 1000, "here")).returncode == 0
    assert not reports["here"].exists()
    assert cli("status", "here").stdout.startswith("here: done")
