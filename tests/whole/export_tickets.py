"""Tickets of several networks for tests of exports."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import torch

from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.tickets.init import random_weights, weights_digest
from rstbench.tickets.ticket import Ticket
from rstbench.training.recipe import recipe_for

ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rstbench":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, ".")
import torch

x = torch.load("x.pt")
"""


def ticket_of(spec, *, data="digits:train", threat="Linf:0.1", remaining="0.25"):
    """A ticket with a random mask, and the norm statistics of random images."""
    recipe = recipe_for(
        {"network": spec.name, "width": spec.width, "norm": spec.norm, "data": data, "threat": threat}
    )
    torch.manual_seed(0)
    weights = random_weights(prunable(build(spec)), recipe.init, recipe.seed)
    masks = {}
    for name, weight in weights.items():
        kept = -(-weight.numel() // 4)
        masks[name] = (torch.randperm(weight.numel()) < kept).view(weight.shape)
    ticket = Ticket(recipe, spec, remaining, masks, {}, weights_digest(weights), None, {})
    net = ticket.module().train()
    for _ in range(20):
        net(torch.rand(16, *spec.shape))
    buffers = {name: tensor for name, tensor in net.state_dict().items() if name not in weights}
    return replace(ticket, buffers=buffers)


NETWORKS = {
    "conv2": NetworkSpec("conv2", (1, 8, 8), 10, 0.1),
    "conv4": NetworkSpec("conv4", (3, 32, 32), 10, 0.1, "none"),
    "resnet18": NetworkSpec("resnet18", (3, 32, 32), 10, 0.1, "affine"),
    "wrn-28-10": NetworkSpec("wrn-28-10", (3, 32, 32), 10, 0.05),
}


def alone(folder, code):
    """The logits that `code` puts into `y`, without this package."""
    done = subprocess.run(
        [sys.executable, "-c", f"{ALONE}{code}\ntorch.save(y, 'y.pt')"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "y.pt")
