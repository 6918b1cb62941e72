"""Scores at initialisation against derivatives worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rstbench.errors import BadRequest
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.tickets.allocation import global_counts
from rstbench.tickets.init import random_weights
from rstbench.tickets.methods.edge_popup import Hydra, _hydra_scores
from rstbench.tickets.methods.saliency import (
    Grasp,
    Magnitude,
    Snip,
    connection_sensitivity,
    gradient_flow,
    random,
    stratified,
)
from rstbench.tickets.methods.search import Search, parse_method
from rstbench.training.epochs import batches
from rstbench.training.recipe import recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 1, "batch": 32}
H = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
W = torch.tensor([[1.0, -2.0]])


def quadratic():
    """L(w) = w H w^T / 2, so g = H w = (0, -5) and H g = (-5, -15)."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data.copy_(W)
    return net, lambda: (net.weight @ H @ net.weight.T).squeeze() / 2


def test_connection_sensitivity_by_hand():
    net, loss = quadratic()
    # |w g| = (0, 10), of which the sum is 10
    assert connection_sensitivity(net, loss)["weight"].tolist() == [[0.0, 1.0]]


def test_gradient_flow_on_a_quadratic():
    net, loss = quadratic()
    assert gradient_flow(net, [loss])["weight"].tolist() == [[-5.0, 30.0]]
    # Two equal halves: g doubles and H g is summed over both, so four times as much.
    assert gradient_flow(net, [loss, loss])["weight"].tolist() == [[-20.0, 120.0]]


def test_removing_what_grasp_drops_first_costs_least_flow():
    """Against the squared gradient after each removal, exactly: the first-order estimate ranks the same."""
    net, loss = quadratic()
    kept = gradient_flow(net, [loss])["weight"].flatten()
    after = []
    for place in range(2):
        with_hole = W.clone()
        with_hole[0, place] = 0
        after.append(float((with_hole @ H).square().sum()))
    assert int(kept.argmin()) == int(torch.tensor(after).argmax())


def test_the_sample_is_balanced(split, generator):
    x, y = stratified(split, generator, 5)
    assert torch.bincount(y).tolist() == [5] * 10
    assert sorted(y[:10].tolist()) == list(range(10))
    assert x.shape == (50, 1, 8, 8)
    x, y = stratified(split, generator, 4)
    assert torch.bincount(y[:20]).tolist() == torch.bincount(y[20:]).tolist() == [2] * 10


def search(split, remaining="0.3", **settings):
    recipe = recipe_for({**SMALL, "init": "kaiming_normal", **settings})
    spec = NetworkSpec("conv2", (1, 8, 8), 10, 0.1)
    return Search(spec, random_weights(prunable(build(spec)), recipe.init, 0), remaining, split, recipe)


def test_magnitude_keeps_the_largest(split):
    one = search(split, method="magnitude")
    ticket, _ = Magnitude()(one)
    for name, mask in ticket.masks.items():
        weight = one.weights[name].abs()
        assert weight[mask].min() >= weight[~mask].max()
        assert int(mask.sum()) == one.budgets[name].kept
    shared, _ = Magnitude()(search(split, method="magnitude", allocation="global"))
    everywhere = torch.cat([one.weights[name].abs()[mask] for name, mask in shared.masks.items()])
    dropped = torch.cat([one.weights[name].abs()[~mask] for name, mask in shared.masks.items()])
    assert everywhere.min() >= dropped.max()
    assert shared.kept_weights == ticket.kept_weights


@pytest.mark.parametrize("method", ["snip", "grasp"])
@pytest.mark.parametrize("adversary", ["none", "pgd:steps=3"])
def test_saliencies_give_tickets_of_the_right_size(split, method, adversary):
    one = search(split, method=method, adversary=adversary)
    ticket, history = parse_method(method)(one)
    assert one.recipe.allocation == "global"
    assert ticket.kept_weights == sum(budget.kept for budget in one.budgets.values())
    again, _ = parse_method(method)(search(split, method=method, adversary=adversary))
    assert again.digest == ticket.digest
    assert len(history) == 1
    assert all(ticket.random_network()[name].equal(one.weights[name]) for name in one.weights)


def test_the_adversary_reaches_the_saliency(split):
    clean, _ = Snip()(search(split, method="snip", adversary="none"))
    adversarial, _ = Snip()(search(split, method="snip", adversary="pgd"))
    assert clean.digest != adversarial.digest


def test_wrong_requests(split):
    with pytest.raises(BadRequest, match=r"all weights of 0.weight have the magnitude"):
        Magnitude()(search(split, method="magnitude", init="binary"))
    with pytest.raises(BadRequest, match="scores single weights, got pattern 'row'"):
        Snip()(search(split, method="snip", pattern="row", allocation="uniform"))
    with pytest.raises(BadRequest, match="the first of free is that of clean images"):
        Snip()(search(split, method="snip", adversary="free"))
    with pytest.raises(BadRequest, match=r"images can be crafted by none, .*got trades"):
        Grasp()(search(split, method="grasp", adversary="trades"))
    with pytest.raises(BadRequest, match="begins at trained weights"):
        Hydra()(search(split, method="hydra"))


def test_hydra_begins_at_the_largest_trained_weights(split):
    one = search(split, method="hydra", origin="abc", lr=1e-12, weight_decay=0.0)
    ticket, _ = Hydra()(one)
    for name, mask in ticket.masks.items():
        weight = one.weights[name].abs()
        assert weight[mask].min() >= weight[~mask].max()
    assert ticket.unlearnt


def test_hydra_scores_by_hand():
    """sqrt(6 / 2) w / 4"""
    found = _hydra_scores(torch.tensor([[4.0, -1.0], [0.0, 2.0]]))
    assert torch.allclose(found, 3**0.5 * torch.tensor([[1.0, -0.25], [0.0, 0.5]]))


def halves(one):
    """The sample of a search, its halves and its network as scoring sees them."""
    net = one.network().train().requires_grad_(True)
    x, y = stratified(one.split, torch.Generator().manual_seed(one.recipe.seed + 2_000_003))
    return net, x, y, len(y) // 2


def test_grasp_keeps_the_largest_of_w_hg_at_temperature_200(split):
    one = search(split, method="grasp", adversary="none")
    net, x, y, half = halves(one)

    def loss(part):
        return nn.functional.cross_entropy(net(x[part]) / 200, y[part])

    wanted = gradient_flow(net, [lambda: loss(slice(0, half)), lambda: loss(slice(half, None))])
    ticket, _ = Grasp()(one)
    order = torch.cat([wanted[name].flatten() for name in wanted])
    kept = torch.cat([ticket.masks[name].flatten() for name in wanted])
    assert float(order[kept].min()) >= float(order[~kept].max())
    mild = gradient_flow(net, [lambda: 200 * loss(slice(0, half)), lambda: loss(slice(half, None))])
    assert not all(torch.allclose(mild[name], wanted[name]) for name in wanted)


def test_snip_keeps_the_largest_of_w_g(split):
    one = search(split, method="snip", adversary="none")
    net, x, y, _ = halves(one)
    wanted = connection_sensitivity(net, lambda: nn.functional.cross_entropy(net(x), y))
    ticket, _ = Snip()(one)
    order = torch.cat([wanted[name].flatten() for name in wanted])
    kept = torch.cat([ticket.masks[name].flatten() for name in wanted])
    assert float(order[kept].min()) >= float(order[~kept].max())


def test_the_norm_holds_the_mean_over_the_batches(split):
    """Of the first layer it is known: the mean over whole batches of the batch's mean and variance."""
    one = search(split, method="random", epochs=2)
    ticket, _ = random(one)
    net = ticket.module()
    means, variances = [], []
    for epoch in (1, 2):
        for x, _ in batches(split.train, one.recipe, torch.Generator().manual_seed(epoch)):
            out = net[0](x)
            means.append(out.mean((0, 2, 3)))
            variances.append(out.transpose(0, 1).flatten(1).var(1))
    assert torch.allclose(net[1].running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert torch.allclose(net[1].running_var, torch.stack(variances).mean(0), rtol=1e-4)
    assert net[1].momentum == 0.1


def test_random_over_the_whole_network_gives_every_weight_the_same_chance(split):
    one = search(split, "0.3", method="random", allocation="global", pattern="kernel")
    ticket, _ = random(one)
    shares = [float(mask.float().mean()) for mask in ticket.masks.values() if mask.numel() > 500]
    assert len(shares) >= 2
    assert all(abs(share - 0.3) < 0.07 for share in shares)


def test_counts_of_layers_are_never_negative():
    """Two layers of zeros and one that all is taken from."""
    scores = {"a": torch.zeros(100), "b": torch.zeros(100), "c": torch.arange(1.0, 21.0)}
    counts = global_counts(scores, 60)
    assert sum(counts.values()) == 60
    assert counts["c"] == 20
    assert min(counts.values()) >= 1
    assert global_counts({"a": torch.ones(5), "b": 2 * torch.ones(50)}, 20) == {"a": 1, "b": 19}
