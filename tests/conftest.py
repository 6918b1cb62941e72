"""What several tests share: real data where it is, and one small ticket drawn once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from rstbench.cli.commands import main
from rstbench.data import load
from rstbench.models.sources.native import ticket_model
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.tickets.init import random_weights
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.training.epochs import TrainSplit
from rstbench.training.recipe import recipe_for
from tests.hand_run import write_hand_run

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


@pytest.fixture(scope="session")
def hand_run():
    """Writes a run by hand, see `write_hand_run`."""
    return write_hand_run
