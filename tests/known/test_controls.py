"""Controls and starts other than random weights: what follows by counting and by identity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils.parametrize import cached

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.networks.network import NetworkSpec, build, count, narrowed, prunable
from rstbench.tickets.allocation import allocate
from rstbench.tickets.checkpoint import train
from rstbench.tickets.init import random_weights, weights_digest
from rstbench.tickets.mask import parse_remaining, random_scores, register_scores
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.saliency import random
from rstbench.tickets.methods.search import Search
from rstbench.tickets.seeds import SCORES
from rstbench.tickets.ticket import Ticket
from rstbench.training.recipe import recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 2, "batch": 32}


def images():
    return load("digits:test:50").at(slice(None))[0]


def test_the_number_of_weights_by_hand():
    # conv2 at width 0.5 on 1x8x8: 9*32 + 9*32*32 + (32*16)*128 + 128*128 + 128*10
    assert count(NetworkSpec("conv2", (1, 8, 8), 10, 0.5)) == 288 + 9216 + 65536 + 16384 + 1280


@pytest.mark.parametrize("weights", [600, 5_000, 40_000, 92_704])
def test_a_narrower_network_is_the_nearest_in_size(weights):
    spec = NetworkSpec("conv2", (1, 8, 8), 10, 0.5)
    found = narrowed(spec, weights)
    sizes = {count(replace(spec, width=step / 1000)) for step in range(1, 501)}
    assert abs(count(found) - weights) == min(abs(size - weights) for size in sizes)
    assert found.width <= spec.width


def test_a_network_of_fixed_widths_is_refused():
    with pytest.raises(BadRequest, match="widths of torchvision:resnet18 are fixed"):
        narrowed(NetworkSpec("torchvision:resnet18", (3, 32, 32), 10), 1000)


def test_a_random_ticket_is_the_start_of_a_search(spec, weights, split):
    recipe = recipe_for({**SMALL, "method": "random"} | {"epochs": 1})
    ticket, history = random(Search(spec, weights, "0.3", split, recipe))
    net = build(spec)
    budgets = allocate({name: w.shape for name, w in prunable(net).items()}, parse_remaining("0.3"), recipe)
    generator = torch.Generator().manual_seed(recipe.seed + SCORES)
    scores = {name: random_scores(budget.score_shape, generator) for name, budget in budgets.items()}
    net.load_state_dict({**net.state_dict(), **weights})
    register_scores(net, budgets, scores)
    net.load_state_dict({**net.state_dict(), **ticket.buffers})
    with cached(), torch.no_grad():
        assert net.eval()(images()).equal(ticket.module()(images()))
    assert len(history) == 1
    again, _ = random(Search(spec, weights, "0.3", split, recipe))
    assert again.digest == ticket.digest
    assert all(again.buffers[name].equal(ticket.buffers[name]) for name in ticket.buffers)


def test_the_norm_of_a_random_ticket_is_that_of_its_layers(spec, weights, split):
    ticket, _ = random(
        Search(spec, weights, "0.3", split, recipe_for({**SMALL, "method": "random", "epochs": 3}))
    )
    means = [buffer for name, buffer in ticket.buffers.items() if name.endswith("running_mean")]
    counts = [int(b) for name, b in ticket.buffers.items() if name.endswith("num_batches_tracked")]
    assert set(counts) == {3 * 128 // 32}
    assert all(mean.abs().max() > 0 for mean in means)


@pytest.mark.parametrize("norm", ["batch", "affine"])
def test_a_ticket_among_trained_weights_keeps_them(split, norm, tmp_path):
    spec = NetworkSpec("conv2", (1, 8, 8), 10, 0.1, norm)
    recipe = recipe_for({**SMALL, "norm": norm})
    checkpoint, _ = train(spec, split, recipe)
    names = prunable(build(spec))
    weights = {name: checkpoint.state[name] for name in names}
    rest = {name: tensor for name, tensor in checkpoint.state.items() if name not in names}
    found, _ = edge_popup(
        Search(spec, weights, "0.4", split, replace(recipe, origin="abc"), initial_state=rest)
    )
    found.save(tmp_path / "t.safetensors")
    ticket = Ticket.load(tmp_path / "t.safetensors")
    assert ticket.random_digest == weights_digest(weights)
    state = ticket.module().state_dict()
    for name, mask in ticket.masks.items():
        assert state[name][mask].equal(weights[name][mask])
        assert not state[name][~mask].any()
    learnt = [name for name in rest if name.endswith((".weight", ".bias"))]
    assert bool(learnt) == (norm == "affine")
    assert all(state[name].equal(rest[name]) for name in learnt)


def test_all_of_a_trained_network_is_that_network(split):
    """Keeping everything, without norm, leaves nothing to choose: the logits are the checkpoint's."""
    spec = NetworkSpec("conv2", (1, 8, 8), 10, 0.1, "none")
    recipe = recipe_for({**SMALL, "norm": "none", "epochs": 1, "lr": 0.01})
    checkpoint, _ = train(spec, split, recipe)
    ticket, _ = edge_popup(
        Search(spec, checkpoint.state, "1", split, replace(recipe, origin="abc"), initial_state={})
    )
    assert ticket.module()(images()).equal(checkpoint.module()(images()))


def test_global_shares_of_a_random_mask_add_up(spec, split):
    weights = random_weights(prunable(build(spec)), "binary", 1)
    recipe = recipe_for({**SMALL, "method": "random", "allocation": "global", "epochs": 1, "init": "binary"})
    uniform = recipe_for({**SMALL, "method": "random", "epochs": 1, "init": "binary"})
    shared, _ = random(Search(spec, weights, "0.2", split, recipe))
    evenly, _ = random(Search(spec, weights, "0.2", split, uniform))
    assert shared.kept_weights == evenly.kept_weights
    assert shared.digest != evenly.digest
