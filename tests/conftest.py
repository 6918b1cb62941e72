"""What several tests share: real data where it is, and one small ticket drawn once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rstbench.adapters.sources.own import ticket_entry
from rstbench.data import load
from rstbench.tickets.draw import edge_popup
from rstbench.tickets.fit import Lesson
from rstbench.tickets.init import random_weights
from rstbench.tickets.networks import NetworkSpec, build, prunable
from rstbench.tickets.recipe import recipe_for
from rstbench.tickets.search import Search

ROOT = Path(__file__).parent.parent
SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 2, "batch": 32}


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real image files in torchvision's layout."""
    folder = os.environ.get("RSTBENCH_DATA")
    if not folder:
        pytest.skip("RSTBENCH_DATA is not set: no real CIFAR-10 and MNIST files")
    return Path(folder)


@pytest.fixture(scope="session")
def lesson():
    return Lesson(load("digits:train:128"), load("digits:validation"))


@pytest.fixture(scope="session")
def spec():
    return NetworkSpec("conv2", (1, 8, 8), 10, 0.1)


@pytest.fixture(scope="session")
def weights(spec):
    return random_weights(prunable(build(spec)), "signed_constant", 0)


@pytest.fixture(scope="session")
def small_tickets(spec, weights, lesson):
    """Two tickets of one random network."""
    recipe = recipe_for(SMALL)
    return [edge_popup(Search(spec, weights, remaining, lesson, recipe))[0] for remaining in ("0.3", "0.6")]


@pytest.fixture(scope="session")
def ticket_files(small_tickets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tickets")
    paths = [folder / f"conv2-{ticket.remaining}.safetensors" for ticket in small_tickets]
    for ticket, path in zip(small_tickets, paths, strict=True):
        ticket.save(path)
    return paths


@pytest.fixture(scope="session")
def small_entries(small_tickets):
    return [ticket_entry(ticket, f"t{ticket.remaining}") for ticket in small_tickets]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def cli(tmp_path):
    """Runs `python -m rstbench …` in a fresh process and folder."""

    def run(*arguments, cwd=tmp_path, env=None, timeout=300):
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
