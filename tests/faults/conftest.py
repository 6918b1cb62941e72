"""What the tests of faults share: a small study, the command that asks it, and what a fault may leave."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent.parent
COMMAND = Path(__file__).parent / "command.py"
STUDY = """
data = "digits:test"
threats = ["Linf:0.1"]
attacks = ["pgd:steps=2"]
certificates = ["ibp"]
images = 20
transfer = true

[[draw]]
name = "rst"
network = "conv2"
width = 0.1
remaining = [0.3]
data = "digits:train:128"
epochs = 2
batch = 32

[[train]]
name = "dense"
network = "conv2"
width = 0.1
data = "digits:train:128"
epochs = 2
batch = 32

[[model]]
ref = "file:net.py:Net"
name = "net"
"""
# What it meets is told by the environment, which is no part of the model.
NET = """
import os
import time

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        if isinstance(x, torch.Tensor):  # not where a certificate traces it
            meet(x)
        return self.layers(x)


def meet(x):
    if len(x) > int(os.environ.get("NET_MOST", 10**9)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
    if x.requires_grad and "NET_HANGS" in os.environ:
        open("hanging", "w").close()
        time.sleep(10**6)
    torch.empty(len(x) * int(os.environ.get("NET_BYTES", 0)), dtype=torch.uint8)
"""
# Of time and memory, which no two runs share.
MEASURED = re.compile("seconds|mib")
ORPHANS_END = 30.0  # seconds


class Commands:
    """Starts commands in processes of their own, which are spared the imports."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, str(COMMAND)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def close(self):
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait(60)


@pytest.fixture(scope="session")
def commands():
    server = Commands()
    yield server
    server.close()


@dataclass
class Folder:
    """A folder with the study, in which commands are run; `out` is theirs."""

    root: Path
    commands: Commands
    out: Path = field(init=False)
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self):
        self.out = self.root / "out"
        self.temporary = self.root / "tmp"
        self.temporary.mkdir()
        self.logs = {}
        (self.root / "study.toml").write_text(STUDY)
        (self.root / "net.py").write_text(NET)

    def start(self, *arguments, fault=None, **environment):
        """Start a command, by default the study's, where a fault strikes it if one is given; its process."""
        log = self.root / f"{uuid.uuid4().hex}.log"
        environment |= {"TMPDIR": str(self.temporary), "RSTBENCH_FAULT": json.dumps(fault), "TAG": self.tag}
        pid = self.commands.ask(
            arguments=[str(argument) for argument in arguments or self.evaluate()],
            folder=str(self.root),
            environment=environment,
            out=os.devnull,
            err=str(log),
        )
        self.logs[pid] = log
        return pid

    def end(self, pid):
        """Wait for a process; returns (exit status, lines of standard error)."""
        status = self.commands.ask(wait=pid, seconds=300)
        errors = self.logs[pid].read_text()
        assert "Traceback" not in errors, errors
        return status, errors.splitlines()

    def run(self, *arguments, fault=None, **environment):
        return self.end(self.start(*arguments, fault=fault, **environment))

    def evaluate(self, *more):
        return [
            *("evaluate", "study.toml", "--out", self.out, "--batch-size", 10, "--crafting", "exact"),
            *("--quiet", *(more or ("--workers", 1))),
        ]

    def processes(self):
        """Return the ids of all processes that commands here have started, also through others."""
        found, mark = [], f"TAG={self.tag}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def leaves_no_process(self):
        deadline = time.monotonic() + ORPHANS_END
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"processes left behind: {left}"

    def leftovers(self):
        """Return the files that only a run has, or that were half written."""
        strange = re.compile(r"\.part$|\.unfinished$|^\.progress$|^\.examples$|^rstbench-|^pymp-")
        torch = "torchinductor"  # torch's own cache
        return [
            path
            for path in self.root.rglob("*")
            if (strange.search(path.name) or self.temporary in path.parents) and torch not in str(path)
        ]

    def finishes(self, tables, *arguments, status=0):
        """Run the command without a fault: the tables are those given, and nothing is left but they."""
        self.leaves_no_process()
        assert self.run(*arguments) == (status, [])
        assert self.tables() == tables
        self.leaves_no_process()
        assert self.leftovers() == []

    def tables(self, out=None):
        """Return the CSV files as they are read, without what is measured."""
        found = {}
        for path in sorted((out or self.out).glob("*.csv")):
            frame = pd.read_csv(path, dtype=str)
            columns = [name for name in frame.columns if not MEASURED.search(name)]
            found[path.name] = frame[columns].to_csv(index=False)
        assert "leaderboard.csv" in found
        return found


@pytest.fixture
def folder(tmp_path, commands):
    return Folder(tmp_path, commands)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, commands):
    """A folder whose study was run without a fault, by a command as users give it."""
    whole = Folder(tmp_path_factory.mktemp("undisturbed"), commands)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rstbench", *map(str, whole.evaluate())]
    done = subprocess.run(command, cwd=whole.root, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert whole.leftovers() == []
    return whole


@pytest.fixture
def made(folder, undisturbed):
    """The folder, in which the networks of the study are made already."""
    for name in ("tickets", "checkpoints"):
        shutil.copytree(undisturbed.out / name, folder.out / name)
    return folder


@pytest.fixture
def nearly(folder, undisturbed):
    """The folder, in which all is answered but an attack on the model of a user's file."""
    shutil.copytree(undisturbed.out, folder.out)
    for path in (folder.out / "results").iterdir():
        header = json.loads(path.read_text().splitlines()[0])
        names = {card["name"] for card in header["cards"].values()}
        if names == {"net"} and header["trial"]["attack"].startswith("pgd"):
            path.unlink()
    return folder


@pytest.fixture(scope="session")
def tables(undisturbed):
    return undisturbed.tables()


@pytest.fixture
def outcome(record_property):
    """Notes what a test has shown, for the table of `run.py`."""

    def note(fault, where, shown):
        for name, value in (("fault", fault), ("where", where), ("outcome", shown)):
            record_property(name, value)

    return note
