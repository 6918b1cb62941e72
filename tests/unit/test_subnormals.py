"""No subnormal numbers in what a search or a training makes; old files stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rstbench.models.identity import module_digest
from rstbench.networks.network import build
from rstbench.networks.subnormals import flush_to_zero
from rstbench.tickets.checkpoint import train
from rstbench.tickets.init import weights_digest
from rstbench.tickets.mask import register_scores
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.tickets.safetensors_io import read_safetensors
from rstbench.tickets.ticket import FORMAT, Ticket
from rstbench.training.epochs import Epoch, fit
from rstbench.training.recipe import recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 2, "batch": 32}
BOARDS = Path(__file__).parent.parent.parent / "leaderboards"


def tiny(state):
    """How many numbers of each tensor are not 0 and below 1e-30 in magnitude, where there are any."""
    counts = {
        name: int(((t != 0) & (t.abs() < 1e-30)).sum()) for name, t in state.items() if t.is_floating_point()
    }
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def decayed(spec):
    """Statistics so small that those of a filter without input are still tiny after 100 steps."""
    state = build(spec).state_dict()
    return {name: torch.full_like(t, 1e-32) for name, t in state.items() if name.endswith(("_mean", "_var"))}


def test_flushing_changes_tiny_numbers_alone():
    values = [0.0, 1e-45, -1e-40, 9e-31, -9e-31, 2e-30, -2e-30, 1.0, float("nan"), float("-inf")]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        found = flush_to_zero({"a": torch.tensor(values, dtype=dtype)})["a"]
        expected = torch.tensor([0.0] * 5 + values[5:], dtype=dtype)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    counts = torch.tensor([0, 3])
    assert flush_to_zero({"n": counts})["n"] is counts


def test_a_search_ends_without(spec, weights, split, decayed):
    search = Search(spec, weights, "0.02", split, recipe_for(SMALL), initial_state=decayed)
    net = search.network()
    assert tiny(net.state_dict())
    ticket = search.ticket(net, {}, Epoch(1, 0.0, 0.0, 0.0, 0.0))
    assert all(not ticket.buffers[name].any() for name in decayed)
    found, _ = edge_popup(search)
    assert not tiny(found.buffers)
    # The dead filters are there: their statistics saw nothing else.
    assert any((found.buffers[name] == 0).any() for name in decayed if name.endswith("_mean"))
    assert weights_digest(found.random_network()) == weights_digest(weights)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_they_change_nothing_else(spec, weights, split, decayed, mode):
    recipe = recipe_for({**SMALL, "attack_bn": mode})
    zeros = {name: torch.zeros_like(t) for name, t in decayed.items()}
    (one, rows), (other, other_rows) = (
        edge_popup(Search(spec, weights, "0.02", split, recipe, initial_state=state))
        for state in (decayed, zeros)
    )
    assert rows == other_rows
    assert one.digest == other.digest
    torch.testing.assert_close(one.buffers, other.buffers, rtol=0, atol=1e-30)


def test_they_are_gone_when_an_epoch_is_measured(spec, weights, split, decayed):
    recipe = recipe_for(SMALL)
    search = Search(spec, weights, "0.02", split, recipe, initial_state=decayed)
    net = search.network()
    popups = register_scores(net, search.budgets, search.random_scores())
    left = []
    scores = [popup.scores for popup in popups.values()]
    fit(net, scores, split, recipe, lambda row: left.append(tiny(net.state_dict())))
    assert left == [{}, {}]


def test_a_training_ends_without(spec, weights, split, decayed):
    ticket, _ = edge_popup(Search(spec, weights, "0.02", split, recipe_for({**SMALL, "epochs": 1})))
    first, *others = weights
    tiny_weights = {first: weights[first] * 1e-32, **{name: weights[name] for name in others}}
    start = replace(
        ticket,
        weights=tiny_weights,
        random_digest=weights_digest(tiny_weights),
        buffers={**ticket.buffers, **decayed},
    )
    # A rate that moves nothing: weights end as they began.
    recipe = recipe_for({**SMALL, "epochs": 1, "method": "training", "weights": "inherit", "lr": 1e-38})
    checkpoint, _ = train(spec, split, recipe, ticket=start)
    assert tiny(start.module().state_dict()).keys() >= {first, *decayed}
    assert not tiny(checkpoint.state)
    assert any((checkpoint.state[name] == 0).any() for name in decayed if name.endswith("_mean"))


@pytest.mark.parametrize("file", ["digits/tickets/rst-0.2-seed0", "switch/mnist/tickets/rst-0.1-seed0"])
def test_an_old_file_keeps_its_tensors_and_digests(file, tmp_path):
    path, again = BOARDS / f"{file}.safetensors", tmp_path / "again.safetensors"
    ticket = Ticket.load(path)
    assert tiny(ticket.buffers)
    assert tiny(ticket.module().state_dict()) == tiny(ticket.buffers)
    ticket.save(again)
    # The recipe in the text has settings that are newer than the file, each with its default.
    (old, old_tensors), (new, new_tensors) = (read_safetensors(p, FORMAT, "ticket") for p in (path, again))
    assert new["content"] == old["content"] == weights_digest(new_tensors) == weights_digest(old_tensors)
    assert module_digest(Ticket.load(again).module()) == module_digest(ticket.module())
