"""Networks that are made in seconds are attacked before the long ones are made, and nothing else changes."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch

from rstbench.evidence.run_log import RunLog
from rstbench.progress import Silent
from rstbench.reports.status import read_status
from rstbench.study import parallel
from rstbench.study.build import Builder
from rstbench.study.jobs import jobs_of
from rstbench.study.parallel import soon_made
from rstbench.study.reading import parse_study
from rstbench.study.run import Options, run_study

COMMON = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 1, "batch": 32}
STUDY = parse_study(
    {
        "name": "early",
        "data": "digits:test",
        "threats": ["Linf:0.1"],
        "attacks": ["pgd:steps=2"],
        "images": 20,
        "transfer": True,
        "draw": [
            {"name": "rst", **COMMON, "remaining": [0.3, 0.6]},
            {"name": "early", **COMMON, "adversary": "none", "remaining": [0.3]},
            {"name": "begins-later", "from": "dense", "data": "digits:train:128", "remaining": [0.3]}
            | {"epochs": 1, "batch": 32, "adversary": "none"},
        ],
        "train": [{"name": "dense", **COMMON}],
    },
    "early",
)


class Stages(Silent):
    """Note what begins, and which networks exist then."""

    def __init__(self, out: Path) -> None:
        self.out, self.seen = out, dict[str, tuple[str, int]]()

    def stage(self, title, total, unit):
        made = len([*self.out.glob("*/*.safetensors")])
        self.seen[title] = (read_status(self.out, 0.0).state, made)
        return nullcontext(Silent().stage(title, total, unit).__enter__())


@pytest.fixture
def short(monkeypatch):
    """Make 'seconds' and 'much longer' of a study this small."""
    builder = Builder(Path(), torch.device("cpu"), Silent())
    jobs = {0: jobs_of(STUDY, 0, Path("out"))}
    for job in jobs[0]:
        if not job.needs:
            builder.check(job)
    builder._loads["begins-later-0.3"] = builder._loads["dense"]
    seconds = sorted({builder.estimate(job) for job in jobs[0]})
    monkeypatch.setattr(parallel, "SOON", seconds[0])
    monkeypatch.setattr(parallel, "WORTH", seconds[0])
    return jobs, builder


def test_which_networks_come_first(short, monkeypatch):
    jobs, builder = short
    assert [job.name for job in soon_made(jobs, builder)[0]] == ["early-0.3"]
    monkeypatch.setattr(parallel, "WORTH", math.inf)  # the others are not worth a look in between
    assert soon_made(jobs, builder) == {}


def run(out, progress=None):
    outcome = run_study(STUDY, Options(out, crafting="exact", report=False), progress)
    assert not outcome.faults
    return {name: frame.drop(columns="seconds", errors="ignore") for name, frame in outcome.tables.items()}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_rows_come_before_the_long_networks(short, tmp_path, monkeypatch):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    stages = Stages(parts)
    in_parts = run(parts, stages)
    titles = list(stages.seen)
    assert titles.index("early-0.3 pgd:steps=2 Linf:0.1") < titles.index("draw rst-0.3")
    assert stages.seen["early-0.3 pgd:steps=2 Linf:0.1"] == ("attacking", 1)
    assert stages.seen["draw rst-0.3"] == ("making", 1)
    assert stages.seen["rst-0.3 pgd:steps=2 Linf:0.1"] == ("attacking", 5)
    log = RunLog.load(parts)
    assert log.ended
    assert len(log.craftings) == 12  # clean and PGD for five models, early-stopped PGD for two judges
    monkeypatch.setattr(parallel, "WORTH", math.inf)
    in_one = run(whole)
    assert in_parts.keys() == in_one.keys()
    for name, frame in in_parts.items():
        pd.testing.assert_frame_equal(frame, in_one[name])
    # Alone in its part, the first network has the threads of one of several, which its file tells.
    files = sorted(path.relative_to(parts) for path in parts.glob("*/*.safetensors"))
    assert len(files) == 5
    for file in files:
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
