"""A ticket's file, its export, and the search that leaves the weights alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator
from torch.nn.utils import parametrize

from rstbench.data import load
from rstbench.errors import BadFile, ModelFault
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.tickets.allocation import allocate
from rstbench.tickets.checkpoint import Checkpoint, train
from rstbench.tickets.init import random_weights, weights_digest
from rstbench.tickets.mask import kept_count, parse_remaining, random_scores, register_scores
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.tickets.ticket import Ticket
from rstbench.training.epochs import Epoch, fit, hold_out, kept_epoch, learning_rate
from rstbench.training.recipe import DrawOptions, recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 2, "batch": 32}


def test_the_search_keeps_the_weights_and_the_export_its_logits(spec, weights, split):
    net = build(spec)
    dense_keys = list(net.state_dict())
    net.load_state_dict({**net.state_dict(), **weights})
    recipe = recipe_for(SMALL)
    budgets = allocate({name: w.shape for name, w in weights.items()}, parse_remaining("0.3"), recipe)
    generator = Generator().manual_seed(0)
    scores = {name: random_scores(budget.score_shape, generator) for name, budget in budgets.items()}
    popups = register_scores(net, budgets, scores)
    before = weights_digest(weights)
    fit(net, [popup.scores for popup in popups.values()], split, recipe, lambda row: None)
    originals = {
        name: net.get_parameter(name.replace("weight", "parametrizations.weight.original"))
        for name in weights
    }
    assert weights_digest(originals) == before
    assert all(original.grad is None for original in originals.values())
    ticket = Ticket(
        recipe,
        spec,
        "0.3",
        {name: budgets[name].weight_mask(popup.scores) for name, popup in popups.items()},
        {name: buffer.clone() for name, buffer in net.named_buffers()},
        before,
        None,
        {},
    )
    module = ticket.module()
    x, _ = load("digits:test:64").at(slice(None))
    with torch.no_grad():
        assert module(x).equal(net(x))
    assert list(module.state_dict()) == dense_keys
    assert all(type(part).__module__.startswith("torch.nn") for part in module.modules())
    assert not any(parametrize.is_parametrized(part) for part in module.modules())
    assert all(p.is_contiguous() and not p.requires_grad for p in module.parameters())
    assert not module.training
    # The search goes on untouched by the export.
    assert all(
        parametrize.is_parametrized(net.get_submodule(name.removesuffix(".weight"))) for name in weights
    )


def test_counts_per_layer(small_tickets):
    for ticket in small_tickets:
        for mask in ticket.masks.values():
            assert int(mask.sum()) == kept_count(parse_remaining(ticket.remaining), mask.numel())
        assert ticket.kept_weights == sum(int((w != 0).sum()) for w in prunable(ticket.module()).values())


def test_tickets_of_one_network_share_it(small_tickets):
    assert len({ticket.random_digest for ticket in small_tickets}) == 1
    assert len({ticket.digest for ticket in small_tickets}) == 2


def test_a_file_gives_the_ticket_back(small_tickets, tmp_path):
    ticket = small_tickets[0]
    ticket.save(str(tmp_path / "a.safetensors"))
    ticket.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = Ticket.load(str(tmp_path / "a.safetensors"))
    assert (found.recipe, found.spec, found.digest) == (ticket.recipe, ticket.spec, ticket.digest)
    x, _ = load("digits:test:8").at(slice(None))
    assert found.module()(x).equal(ticket.module()(x))


def test_a_file_holds_one_bit_a_weight(small_tickets, tmp_path):
    ticket = small_tickets[0]
    ticket.save(tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert not [name for name in tensors if name.startswith("weight/")]
    for name, mask in ticket.masks.items():
        assert tensors[f"mask/{name}"].numel() == -(-mask.numel() // 8)


def test_normal_weights_are_stored_unless_declined(spec, split, tmp_path):
    recipe = recipe_for({**SMALL, "init": "kaiming_normal", "epochs": 1})
    weights = random_weights(prunable(build(spec)), "kaiming_normal", 0)
    ticket, _ = edge_popup(Search(spec, weights, "0.5", split, recipe))
    ticket.save(tmp_path / "a.safetensors")
    assert Ticket.load(tmp_path / "a.safetensors").weights is not None
    declined, _ = edge_popup(
        Search(spec, weights, "0.5", split, recipe, options=DrawOptions(store_weights=False))
    )
    assert declined.weights is None


def spoil(path, out, **changes):
    """The file with other metadata."""
    import json

    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["rstbench"])
    about.update(changes)
    save_file(load_file(path), out, {"rstbench": json.dumps(about)})
    return out


def test_wrong_files_give_one_clear_error(ticket_files, tmp_path):
    good = ticket_files[0]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-10])
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(1)}, plain)
    cases = {
        tmp_path / "none.safetensors": "no ticket file",
        cut: "no whole safetensors file",
        text: "no whole safetensors file",
        plain: "holds no ticket",
        spoil(good, tmp_path / "digest.safetensors", random_digest="0" * 64): "do not match their digest",
        spoil(good, tmp_path / "ratio.safetensors", remaining="0.9"): "damaged",
        spoil(
            good, tmp_path / "format.safetensors", format="rstbench-checkpoint-1"
        ): "but rstbench-checkpoint-1",
    }
    for path, message in cases.items():
        with pytest.raises(BadFile, match=message):
            Ticket.load(path)


def test_drawing_repeats_bit_by_bit(spec, weights, split, small_tickets):
    again, _ = edge_popup(Search(spec, weights, "0.3", split, recipe_for(SMALL)))
    assert again.digest == small_tickets[0].digest
    other, _ = edge_popup(Search(spec, weights, "0.3", split, replace(recipe_for(SMALL), seed=1)))
    assert other.digest != again.digest


@pytest.mark.parametrize(("how", "same"), [("inherit", True), ("reinit", False), ("reinit-kaiming", False)])
def test_finetuning_keeps_the_mask(small_tickets, split, how, same, tmp_path):
    ticket = small_tickets[0]
    recipe = recipe_for({**SMALL, "weights": how, "epochs": 1, "lr": 1e-9, "weight_decay": 0.0})
    checkpoint, _ = train(ticket.spec, split, recipe, ticket=ticket)
    kept = {name: checkpoint.state[name] for name in ticket.masks}
    random = ticket.random_network()
    for name, mask in ticket.masks.items():
        assert (kept[name][~mask] == 0).all()
        assert torch.allclose(kept[name][mask], random[name][mask], atol=1e-6) == same
    assert checkpoint.kept_weights == ticket.kept_weights
    checkpoint.save(tmp_path / "c.safetensors")
    x, _ = load("digits:test:8").at(slice(None))
    assert Checkpoint.load(tmp_path / "c.safetensors").module()(x).equal(checkpoint.module()(x))


def test_training_a_dense_network(spec, split):
    checkpoint, history = train(spec, split, recipe_for({**SMALL, "adversary": "none", "epochs": 8}))
    assert checkpoint.remaining == "1"
    assert checkpoint.kept_weights == checkpoint.total_weights
    assert history[-1].loss < 0.7 * history[0].loss


def test_selection_keeps_the_best_or_the_last_epoch():
    rows = [Epoch(1, 1, 0.5, 0.4, 0.1), Epoch(2, 1, 0.9, 0.3, 0.1), Epoch(3, 1, 0.6, 0.4, 0.1)]
    assert kept_epoch(rows, recipe_for({**SMALL})).epoch == 3
    assert kept_epoch(rows, recipe_for({**SMALL, "adversary": "none"})).epoch == 2
    assert kept_epoch(rows[:2], recipe_for({**SMALL, "select": "last"})).epoch == 2


def test_the_network_ends_in_the_kept_state(spec, weights, split):
    recipe = recipe_for({**SMALL, "epochs": 4})
    ticket, history = edge_popup(Search(spec, weights, "0.3", split, recipe))
    chosen = kept_epoch(history, recipe)
    x, y = split.select.at(slice(None))
    assert float((ticket.module()(x).argmax(1) == y).float().mean()) == pytest.approx(chosen.clean)


def test_schedules():
    piecewise, cosine = (
        recipe_for({**SMALL, "schedule": "piecewise"}),
        recipe_for({**SMALL, "schedule": "cosine"}),
    )
    cycle = recipe_for({**SMALL, "schedule": "one-cycle"})
    assert [learning_rate(piecewise, t) for t in (0, 0.49, 0.5, 0.75)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001]
    )
    assert [learning_rate(cosine, t) for t in (0, 0.5, 1)] == pytest.approx([0.1, 0.05, 0])
    assert [learning_rate(cycle, t) for t in (0, 0.15, 0.3, 1)] == pytest.approx([0, 0.05, 0.1, 0])


def test_held_out_images_leave_training():
    train_images = load("digits:train")
    rest, held = hold_out(train_images, 0)
    assert (len(rest), len(held)) == (1176, 24)
    both = torch.cat([rest.pixels, held.pixels]).flatten(1)
    assert sorted(both.tolist()) == sorted(train_images.pixels.flatten(1).tolist())


def test_a_loss_that_explodes_stops_with_advice(spec, weights, split):
    recipe = recipe_for({**SMALL, "lr": 1e30, "norm": "none", "weight_decay": 1.0})
    bare = NetworkSpec("conv2", (1, 8, 8), 10, 0.1, "none")
    with pytest.raises(ModelFault, match="try a lower lr"):
        train(bare, split, recipe)
