"""What several tests share: real data where it is, and one small ticket drawn once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rstbench.cli.commands import main
from rstbench.data import load
from rstbench.evidence.examples import join_parts
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial
from rstbench.models.sources.native import ticket_model
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.reports.lookup import Evidence
from rstbench.tickets.init import random_weights
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.training.epochs import TrainSplit
from rstbench.training.recipe import recipe_for

ROOT = Path(__file__).parent.parent
SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 2, "batch": 32}


def pytest_collection_modifyitems(items):
    """Put long tests first, so that little is left when processes take the last ones off one another."""
    order = ("test_study.py", "whole", "known")
    items.sort(key=lambda item: min((i for i, n in enumerate(order) if n in item.path.parts), default=9))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real image files in torchvision's layout."""
    folder = os.environ.get("RSTBENCH_DATA")
    if not folder:
        pytest.skip("RSTBENCH_DATA is not set: no real CIFAR-10 and MNIST files")
    return Path(folder)


@pytest.fixture(scope="session")
def split():
    return TrainSplit(load("digits:train:128"), load("digits:validation"))


@pytest.fixture(scope="session")
def spec():
    return NetworkSpec("conv2", (1, 8, 8), 10, 0.1)


@pytest.fixture(scope="session")
def weights(spec):
    return random_weights(prunable(build(spec)), "signed_constant", 0)


@pytest.fixture(scope="session")
def small_tickets(spec, weights, split):
    """Two tickets of one random network."""
    recipe = recipe_for(SMALL)
    return [edge_popup(Search(spec, weights, remaining, split, recipe))[0] for remaining in ("0.3", "0.6")]


@pytest.fixture(scope="session")
def ticket_files(small_tickets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tickets")
    paths = [folder / f"conv2-{ticket.remaining}.safetensors" for ticket in small_tickets]
    for ticket, path in zip(small_tickets, paths, strict=True):
        ticket.save(path)
    return paths


@pytest.fixture(scope="session")
def small_entries(small_tickets):
    return [ticket_model(ticket, f"t{ticket.remaining}") for ticket in small_tickets]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs a command in a folder: in this process, which spares the imports, or with `fresh` or an
    environment of its own as `python -m rstbench …`."""

    def run(*arguments, cwd=tmp_path, env=None, fresh=False, timeout=300):
        if not fresh and env is None:
            monkeypatch.chdir(cwd)
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                status = main([str(argument) for argument in arguments])
            return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **(env or {})}
        return subprocess.run(
            [sys.executable, "-m", "rstbench", *map(str, arguments)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


NEAR, FAR = "Linf:1/10", "Linf:1/5"
PGD, STOPPED, AUTO = "pgd", "pgd:early_stop=true", "autoattack"
STRANGER = "<script>alert(1)</script>"
HAND_CARDS = {
    "a" * 64: ModelInfo("rst-0.1", "ticket", "rst", "conv4", 0.1, 10, 100, family="rst", ratio="0.1"),
    "b" * 64: ModelInfo(
        "rst-0.2", "ticket", "rst", "conv4", 0.2, 20, 100, ("selected-on-test",), family="rst", ratio="0.2"
    ),
    "d" * 64: ModelInfo("dense", "trained", "adversarial-training", "conv4", 1.0, 100, 100, family="dense"),
    "e" * 64: ModelInfo(STRANGER, "external", "", "", None, 50, 50),
    "s" * 64: ModelInfo(
        "switch-rst",
        "switch",
        "rst",
        "conv4",
        None,
        30,
        100,
        members=("a" * 64, "b" * 64),
        weights=(0.5, 0.5),
    ),
}


@pytest.fixture(scope="session")
def hand_run():
    """Writes a run of two tickets, their switch, a dense network and a stranger, whose name is a script, at
    two radii; returns its evidence. Answers are drawn at random, but always the same. names: other names."""

    def make(root, names=None, rows=None, study=None):
        cards = {m: replace(c, name=(names or {}).get(c.name, c.name)) for m, c in HAND_CARDS.items()}
        random, store, keys, images = np.random.RandomState(0), Store(root), set(), 20
        a, b, d, e, s = HAND_CARDS
        asked = [(m, m, "clean", "", 0.9) for m in (a, b, d, e)]
        for threat, right in ((NEAR, 0.7), (FAR, 0.4)):
            asked += [(m, m, PGD, threat, right) for m in (a, b, d, e)]
            asked += [(x, y, attack, threat, right) for x, y in ((a, b), (b, a)) for attack in (PGD, STOPPED)]
            asked += [(m, m, STOPPED, threat, right) for m in (a, b)]
            asked += [(s, m, PGD, threat, right) for m in (a, b)]
        asked += [(m, m, AUTO, NEAR, 0.6) for m in (a, b, d)]  # the stranger's failed
        for source, target, attack, threat, right in asked:
            clean = attack == "clean"
            bits = "".join("1" if value < right else "0" for value in random.random(images))
            trial = Trial(source, target, attack, threat, "data", 20, 0)
            wrong = bits.replace("0", "x").replace("1", "0").replace("x", "1")
            stages = {"apgd-ce": wrong, "square": "0" * images} if attack == AUTO else {}
            cost = (0, 0) if clean else (420, 400)
            tally = ShardResult(0, bits, stages, (), *cost, 0.25, "cpu", 2, {"torch": "2", "rstbench": "0"})
            store.add(trial, tally, {m: cards[m] for m in (source, target)}, "digits:test")
            keys.add(trial.key)
        every = [
            Row(m, t, 0, (PGD, AUTO) if t == NEAR else (PGD,)) for t in (NEAR, FAR) for m in (a, b, d, e)
        ]
        every += [Row(s, threat, 0, (PGD,)) for threat in (NEAR, FAR)]
        run = {"data": "digits:test", "data_digest": "data", "batch": 20, "device": "cpu", "threads": 2}
        Manifest(
            study=study or {"name": "by hand", "attacks": [PGD, {"attack": AUTO, "threat": NEAR}]},
            run={**run, "versions": {"rstbench": "0", "torch": "2"}},
            images=images,
            models=cards,
            rows=tuple(every if rows is None else rows),
            groups=((a, b),),
            keys=tuple(keys),
            failures=("<b>autoattack</b> raised",),
        ).save(root)
        x = random.random((8, 1, 8, 8)).astype(np.float32)
        noise = (random.randint(0, 2, x.shape) * 0.2 - 0.1).astype(np.float32)
        join_parts(
            root,
            {
                "data/images": x,
                "data/labels": np.arange(8),
                f"{a}/{PGD}/{NEAR}/0/adversarial": np.clip(x + noise, 0, 1),
                f"{a}/{PGD}/{NEAR}/0/predicted": np.array([0, 1, 2, 3, 4, 5, 6, -1]),
            },
        )
        return Evidence.read(root)

    return make
