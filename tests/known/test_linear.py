"""Attacks against a linear model, whose robust images are known on paper.

f(x) = W x + b with two classes is robust at x in a ball of radius eps iff its margin exceeds
eps * ||w_y - w_other|| in the dual norm, as long as the ball lies inside [0, 1].
"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

from rstbench.attacks import PGD, mean_log_probability
from rstbench.attacks.autoattack import AutoAttack
from rstbench.threat import Threat

DUAL = {"Linf": 1, "L2": 2, "L1": float("inf")}


class Linear(nn.Module):
    def __init__(self, seed, classes=2, pixels=18):
        super().__init__()
        generator = Generator().manual_seed(seed)
        self.fc = nn.Linear(pixels, classes)
        self.fc.weight.data = torch.randn(classes, pixels, generator=generator)
        # The decision line goes through the grey image, where our images lie about.
        self.fc.bias.data = -self.fc.weight.data.sum(1) * 0.5
        self.requires_grad_(False).eval()

    def forward(self, x):
        return self.fc(x.flatten(1))


def problem(norm, seed=0, n=200):
    """Images near grey, so that no wall of the box is met; labels as the model says; margins in radii."""
    model = Linear(seed)
    x = 0.5 + 0.02 * torch.randn(n, 2, 3, 3, generator=Generator().manual_seed(seed + 1))
    y = model(x).argmax(1)
    w = model.fc.weight[0] - model.fc.weight[1]
    margin = (model(x)[:, 0] - model(x)[:, 1]).abs() / torch.linalg.vector_norm(w, ord=DUAL[norm])
    return model, x, y, margin


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("early_stop", [False, True])
def test_pgd_is_exact(norm, loss, early_stop, generator):
    model, x, y, margin = problem(norm)
    threat = Threat(norm, Threat.parse(f"{norm}:{float(margin.median()):.4f}").eps)
    crafted = PGD(steps=40, loss=loss, early_stop=early_stop)(model, x, y, threat, generator)
    threat.check(x, crafted.images)
    robust = model(crafted.images).argmax(1) == y
    # Rounding decides within 1 % of the radius.
    clear = (margin - float(threat.eps)).abs() > 0.01 * float(threat.eps)
    assert 0.3 < float(robust.float().mean()) < 0.7
    assert robust[clear].equal((margin > float(threat.eps))[clear])
    assert crafted.stages["pgd"].equal(~robust)


def test_pgd_returns_the_largest_loss_of_all_images(generator):
    model, x, y, _ = problem("Linf")
    threat = Threat.parse("Linf:0.01")
    w = model.fc.weight
    crafted = PGD()(model, x, y, threat, generator).images
    best = x + 0.01 * (w[1 - y] - w[y]).sign().view_as(x)
    assert torch.allclose(crafted, best, atol=1e-6)


def test_early_stop_stays_at_the_first_success(generator):
    model, x, y, _ = problem("Linf")
    threat = Threat.parse("Linf:0.05")
    stopped = PGD(early_stop=True)(model, x, y, threat, generator).images
    full = PGD()(model, x, y, threat, generator).images

    def loss(images):
        return nn.functional.cross_entropy(model(images), y, reduction="none")

    fooled = model(stopped).argmax(1) != y
    assert fooled.float().mean() > 0.5
    assert (loss(stopped)[fooled] <= loss(full)[fooled] + 1e-5).all()
    assert loss(stopped)[fooled].mean() < 0.7 * loss(full)[fooled].mean()


def test_pgd_keeps_wrong_images_moving(generator):
    """An image that is wrong already is still pushed on: transfer wants maximum-loss images."""
    model, x, y, _ = problem("Linf")
    threat = Threat.parse("Linf:0.02")
    moved = PGD()(model, x, 1 - y, threat, generator).images
    assert torch.allclose(threat.distance(x, moved).float(), torch.full((len(x),), 0.02), atol=1e-6)


def test_more_restarts_never_lower_the_loss():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, 30), nn.Tanh(), nn.Linear(30, 4)).requires_grad_(False)
    x = torch.rand(50, 2, 3, 3)
    y, threat = net(x).argmax(1), Threat.parse("Linf:0.1")
    one = PGD(steps=3)(net, x, y, threat, Generator().manual_seed(0)).images
    five = PGD(steps=3, restarts=5)(net, x, y, threat, Generator().manual_seed(0)).images
    losses = [nn.functional.cross_entropy(net(images), y, reduction="none") for images in (one, five)]
    assert (losses[1] >= losses[0]).all()


def test_a_flat_model_raises_the_zero_gradient_flag(generator):
    class Flat(nn.Module):
        def forward(self, x):
            return (x.flatten(1)[:, :3] * 4).round().detach() + 0 * x.sum()

    x = torch.rand(5, 1, 2, 2, generator=generator)
    assert PGD(steps=2)(
        Flat(), x, torch.zeros(5, dtype=torch.long), Threat.parse("Linf:0.1"), generator
    ).flags == ("zero-gradient",)


def test_nan_logits_are_kept_as_the_worst(generator):
    class Brittle(nn.Module):
        def forward(self, x):
            out = x.flatten(1)[:, :3] * 1.0
            return torch.where(x.flatten(1)[:, :1] > 0.5, float("nan"), out)

    x = torch.full((4, 1, 2, 2), 0.45)
    images = PGD()(Brittle(), x, torch.ones(4, dtype=torch.long), Threat.parse("Linf:0.1"), generator).images
    assert Brittle()(images).isnan().any(1).all()


class Pair:
    """A mixture of models as attacks see one."""

    def __init__(self, members, weights):
        self.members, self.weights = members, weights

    def __call__(self, x):
        return mean_log_probability(self)(x)


def test_two_equal_members_are_as_one(generator):
    model, x, y, _ = problem("Linf")
    threat = Threat.parse("Linf:0.01")
    alone = PGD()(model, x, y, threat, Generator().manual_seed(0)).images
    twice = PGD()(Pair([model, model], [0.5, 0.5]), x, y, threat, Generator().manual_seed(0)).images
    assert torch.allclose(alone, twice, atol=1e-7)
    assert torch.allclose(Pair([model, model], [0.3, 0.7])(x), model(x).log_softmax(1), atol=1e-6)


def test_a_member_without_weight_plays_no_part(generator):
    model, x, y, _ = problem("Linf")
    threat = Threat.parse("Linf:0.01")
    alone = PGD()(model, x, y, threat, Generator().manual_seed(0)).images
    pair = PGD()(Pair([model, Linear(7)], [1.0, 0.0]), x, y, threat, Generator().manual_seed(0)).images
    assert alone.equal(pair)
    assert torch.allclose(Pair([model, Linear(7)], [1.0, 0.0])(x), model(x).log_softmax(1), atol=1e-6)


def test_opposed_members_are_weighed_in_the_expected_loss(generator):
    """Against f and -f with weights 0.9 and 0.1 the expected loss is raised along f's gradient."""
    model, x, _, _ = problem("Linf")
    y, threat = torch.zeros(len(x), dtype=torch.long), Threat.parse("Linf:0.01")
    opposed = nn.Sequential(model, nn.Linear(2, 2, bias=False)).requires_grad_(False)
    opposed[1].weight.data = -torch.eye(2)
    images = PGD()(Pair([model, opposed], [0.9, 0.1]), x, y, threat, generator).images
    w = model.fc.weight[1] - model.fc.weight[0]
    assert torch.allclose(images, x + 0.01 * w.sign().view_as(x[0]), atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_autoattack_is_exact(norm, generator):
    """Square and FAB suffice on a linear model with two classes; DLR needs three."""
    model, x, y, margin = problem(norm, n=40)
    threat = Threat(norm, Threat.parse(f"{norm}:{float(margin.median()):.4f}").eps)
    crafted = AutoAttack(attacks=("apgd-ce", "fab-t"))(model, x, y, threat, generator)
    threat.check(x, crafted.images)
    robust = model(crafted.images).argmax(1) == y
    clear = (margin - float(threat.eps)).abs() > 0.01 * float(threat.eps)
    assert robust[clear].equal((margin > float(threat.eps))[clear])
