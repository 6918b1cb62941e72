"""The mixed-integer certificate against all activation patterns of tiny networks, one linear program each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Generator, nn

from rstbench.attacks import PGD
from rstbench.certificates.crown import Crown
from rstbench.certificates.ibp import IBP
from rstbench.certificates.milp import SLACK, Milp
from rstbench.certificates.regions import proved_radius
from rstbench.threat import Threat

PIXELS = 4


def tiny(widths, seed):
    """A network of linear layers and ReLUs on images (1, 2, 2) with three classes."""
    generator = Generator().manual_seed(seed)
    layers = [nn.Flatten()]
    for before, after in itertools.pairwise([PIXELS, *widths, 3]):
        layer = nn.Linear(before, after)
        layer.weight.data = torch.randn(after, before, generator=generator)
        layer.bias.data = 0.3 * torch.randn(after, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False).eval()


def least_margin(net, x, label, threat):
    """The least margin over ball and box: the least over all patterns of active ReLUs of a linear program.

    Variables are z − x = up − down, with up, down >= 0 as far as the box and, for Linf, the ball allow.
    """
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    weights = [(layer.weight.double().numpy(), layer.bias.double().numpy()) for layer in layers]
    clean, eps = x.double().flatten().numpy(), proved_radius(threat)
    most = eps if threat.norm == "Linf" else np.inf
    bounds = [(0, min(most, room)) for room in [*(1 - clean), *clean]]
    sizes = [len(bias) for _, bias in weights[:-1]]
    least = np.inf
    for pattern in itertools.product([0.0, 1.0], repeat=sum(sizes)):
        parts = np.split(np.array(pattern), np.cumsum(sizes)[:-1])
        matrix, constant = np.eye(PIXELS), clean.copy()
        rows, sides = [], []
        for (weight, bias), active in zip(weights[:-1], parts, strict=True):
            matrix, constant = weight @ matrix, weight @ constant + bias
            sign = 1 - 2 * active  # active: −value <= 0, else value <= 0
            rows.append(sign[:, None] * matrix)
            sides.append(-sign * constant)
            matrix, constant = active[:, None] * matrix, active * constant
        matrix, constant = weights[-1][0] @ matrix, weights[-1][0] @ constant + weights[-1][1]
        limits = np.concatenate([np.hstack([row, -row]) for row in rows])
        ends = np.concatenate(sides)
        if threat.norm == "L1":
            limits, ends = np.vstack([limits, np.ones(2 * PIXELS)]), np.append(ends, eps)
        for other in set(range(3)) - {label}:
            cost = matrix[label] - matrix[other]
            solved = linprog(np.concatenate([cost, -cost]), limits, ends, bounds=bounds)
            if solved.status == 0:
                least = min(least, solved.fun + constant[label] - constant[other])
    return least


def compare(widths, seed, norm, eps):
    """Hold all certificates of one network and image against the enumeration."""
    net = tiny(widths, seed)
    x = torch.rand(1, 1, 2, 2, generator=Generator().manual_seed(seed + 1))
    y, threat = net(x).argmax(1), Threat.parse(f"{norm}:{eps}")
    exact = least_margin(net, x[0], int(y), threat)
    found = [certificate(net, x, y, threat) for certificate in (IBP(), Crown(), Crown(5), Milp())]
    margins = [float(certified.margins) for certified in found]
    assert all(one <= other + 1e-12 for one, other in itertools.pairwise(margins))
    assert margins[-1] <= exact + 1e-6
    slack = 3 * SLACK * max(1.0, 10 * float(net(x).abs().amax()))
    if abs(exact) > slack:  # nearer than that it stays open
        assert bool(found[-1].proved) == (exact > 0)
    if exact < -slack:
        image = found[-1].counterexamples
        threat.check(x, image)
        assert image.dtype == torch.float32
        assert int(net(image).argmax(1)) != int(y)
    else:
        assert found[-1].counterexamples.isnan().all()
    return bool(found[-1].proved)


def test_milp_is_what_all_patterns_give():
    cases = itertools.product([(4,), (3, 2)], range(4), [("Linf", "0.1"), ("L1", "0.3")])
    proved = [compare(widths, seed, *threat) for widths, seed, threat in cases]
    assert 2 < sum(proved) < len(proved) - 2


@given(
    widths=st.sampled_from([(2,), (3,), (5,), (2, 2), (3, 2)]),
    seed=st.integers(0, 10**6),
    threat=st.sampled_from([("Linf", "0.03"), ("Linf", "0.2"), ("L1", "0.1"), ("L1", "0.8")]),
)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_milp_of_any_tiny_network(widths, seed, threat):
    compare(widths, seed, *threat)


@pytest.mark.slow
@given(
    widths=st.sampled_from([(4,), (6,), (8,), (3, 3), (4, 4), (2, 3, 2)]),
    seed=st.integers(0, 10**6),
    threat=st.sampled_from([("Linf", "0.03"), ("Linf", "0.2"), ("L1", "0.1"), ("L1", "0.8")]),
)
@settings(max_examples=300, deadline=None)
def test_milp_of_hundreds_of_tiny_networks(widths, seed, threat):
    compare(widths, seed, *threat)


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(12,), (6, 6)])
def test_milp_with_twelve_units(widths):
    for norm, eps in (("Linf", "0.1"), ("L1", "0.3")):
        compare(widths, 1, norm, eps)


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(1, 2, 2, 2), nn.Conv2d(2, 2, 1), nn.Linear(8, 2)

    def forward(self, x):
        x = self.one(x)
        return self.fc((self.two(x.relu()) + x).relu().flatten(1))


def pooled(name):
    """A small network on images (1, 4, 4) whose images near the boundary are many."""
    torch.manual_seed(2)
    first, last = nn.Conv2d(1, 2, 3, padding=1), [nn.Flatten(), nn.Linear(8, 2)]
    nets = {
        "relu-pool": lambda: nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), *last),
        "pool-relu": lambda: nn.Sequential(first, nn.MaxPool2d(3, 2, 1), nn.ReLU(), *last),
        "pool": lambda: nn.Sequential(nn.MaxPool2d(3, 1), nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), *last),
        "average": lambda: nn.Sequential(first, nn.ReLU(), nn.AvgPool2d(2), *last),
        "norm": lambda: nn.Sequential(
            nn.BatchNorm2d(1), first, nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), *last
        ),
        "shortcut": Shortcut,
    }
    return nets[name]().requires_grad_(False).eval()


@pytest.mark.parametrize("name", ["relu-pool", "pool-relu", "pool", "average", "norm", "shortcut"])
@pytest.mark.parametrize("threat", ["Linf:0.1", "L1:0.5"])
def test_solutions_are_of_the_network_itself(name, threat, generator):
    """The margin that the solver finds is what the module computes at the image that it gives."""
    net, x = pooled(name), torch.rand(30, 1, 4, 4, generator=generator)
    (net.fc if name == "shortcut" else net[-1]).bias.sub_(net(x).mean(0))  # so that no class is far ahead
    nearest = (net(x).topk(2).values @ torch.tensor([1.0, -1.0])).argsort()[1:12:5]
    x, y, threat = x[nearest], net(x[nearest]).argmax(1), Threat.parse(threat)
    certified = Milp(seconds=5)(net, x, y, threat)
    found = ~certified.counterexamples.isnan().flatten(1).any(1)
    assert found.any()
    logits, labels = net(certified.counterexamples[found]).double(), y[found, None]
    margins = logits.gather(1, labels) - logits.scatter(1, labels, -torch.inf).amax(1, keepdim=True)
    assert torch.allclose(certified.margins[found], margins[:, 0], atol=2e-3)


class Pooled(nn.Module):
    """A max pool and a residual sum, whose least margins are known."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.conv.bias.data = torch.tensor([0.0, 0.5])
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(2, 2)
        self.fc.weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        self.fc.bias.data = torch.zeros(2)
        self.requires_grad_(False).eval()

    def forward(self, x):
        out = self.conv(x)
        return self.fc(self.pool(out.relu() + out).flatten(1))


def test_max_pools_and_sums_are_encoded_exactly():
    """The margin is 2 max(x) + 2 max(0.5 − x) where 0.5 − min(x) is positive: linear in the extremes."""
    net, x = Pooled(), torch.tensor([0.2, 0.3, 0.6, 0.62]).view(1, 1, 2, 2)
    y = net(x).argmax(1)
    # At eps 0.1 the least is at max(x) = 0.52, min(x) = 0.3: 1.04 + 0.4.
    certified = Milp()(net, x, y, Threat.parse("Linf:0.1"))
    assert certified.proved.item()
    net.fc.bias.data[0] = -1.5  # so that it is below zero, and the solver looks for it
    x = torch.tensor([0.2, 0.3, 0.6, 0.62]).view(1, 1, 2, 2)
    assert float(net(x)[0, 0]) == pytest.approx(0.34, abs=1e-6)
    certified = Milp()(net, x, y, Threat.parse("Linf:0.1"))
    assert float(certified.margins) == pytest.approx(1.44 - 1.5, abs=5e-3)
    assert float(certified.margins) <= 1.44 - 1.5
    assert not certified.proved.item()
    assert int(net(certified.counterexamples).argmax(1)) != int(y)


def spike():
    """A network that is wrong only where every pixel is near 0.5 + 0.09, and flat elsewhere in the ball."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2 * PIXELS), nn.ReLU(), nn.Linear(2 * PIXELS, 1))
    spot = torch.full((PIXELS,), 0.59)
    eye = torch.eye(PIXELS)
    net[1].weight.data = 100 * torch.cat([eye, -eye])
    net[1].bias.data = 100 * torch.cat([-spot, spot])  # their sum is 100 times the L1 distance from the spot
    net[3].weight.data = -torch.ones(1, 2 * PIXELS)
    net[3].bias.data = torch.ones(1)
    last = nn.Linear(1, 2)
    last.weight.data, last.bias.data = torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.0])
    return nn.Sequential(net, nn.ReLU(), last).requires_grad_(False).eval()


def test_a_thin_spike_that_pgd_misses_is_found(generator):
    net, x, threat = spike(), torch.full((1, 1, 2, 2), 0.5), Threat.parse("Linf:0.1")
    y = net(x).argmax(1)
    assert net(PGD(restarts=20)(net, x, y, threat, generator).images).argmax(1).equal(y)
    certified = Milp()(net, x, y, threat)
    assert not certified.proved.item()
    threat.check(x, certified.counterexamples)
    assert not net(certified.counterexamples).argmax(1).equal(y)
    assert Milp()(net, x, y, Threat.parse("Linf:0.08")).proved.item()
