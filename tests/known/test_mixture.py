"""Attacks on a switch of linear members, whose optima are computed on paper."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rstbench.attacks import AttackSpec
from rstbench.attacks.apgd import checkpoints
from rstbench.attacks.best_weights import best_switch_weights, count_attacks, descend, project_to_simplex
from rstbench.attacks.objective import Objective
from rstbench.threat import Threat

ALL = ["pgd:restarts=3", "pgd:momentum=1.0", "pgd:samples=3", "pgd:loss=margin", "pgd:mean=probability",
       "pgd:mean=logits", "apgd", "apgd:loss=margin", "apgd:mean=probability", "apgd:mean=logits", "arc",
       "arc:restarts=2,runners=1", "joint", "autoattack:attacks=apgd-ce"]  # fmt: skip
JOINT = ["arc", "joint"]


class Side(nn.Module):
    """Two classes: logits (0, w·(x - 1/2) + m); label 1 is right at the centre, by the margin m."""

    def __init__(self, w, m):
        super().__init__()
        self.w, self.m = torch.tensor(w, dtype=torch.float32), m

    def forward(self, x):
        score = (x - 0.5).flatten(1) @ self.w + self.m
        return torch.stack([torch.zeros_like(score), score], 1)


class Cusp(Side):
    """The same answers; the gradient of the pixel that does not matter is NaN where it is 1/2."""

    def forward(self, x):
        nothing = (x.flatten(1)[:, 1] - 0.5).abs().sqrt() * 0
        return super().forward(x) + nothing[:, None]


def switch(*members, weights=None):
    return SimpleNamespace(members=members, weights=weights or [1 / len(members)] * len(members))


def centre(n=1, size=2):
    return torch.full((n, 1, 1, size), 0.5), torch.ones(n, dtype=torch.long)


def accuracy(mixture, attack, x, y, threat):
    """Expected accuracy on what the attack crafts, an image."""
    bounded = Threat.parse(threat)
    adv = AttackSpec.parse(attack).attack(mixture, x, y, bounded, torch.Generator().manual_seed(0)).images
    bounded.check(x, adv)
    pairs = zip(mixture.weights, mixture.members, strict=True)
    return sum(w * (member(adv).argmax(1) == y).float() for w, member in pairs)


class Says(nn.Module):
    """The same probabilities for every image; counts the images it gives gradients for."""

    def __init__(self, *probabilities):
        super().__init__()
        self.logits, self.followed = torch.tensor(probabilities).log(), 0

    def forward(self, x):
        self.followed += len(x) * x.requires_grad
        return self.logits + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(("other", "is_attacked"), [((0.1, 0.5, 0.4), False), ((0.1, 0.4, 0.5), True)])
def test_autoattack_leaves_what_every_member_gets_wrong(other, is_attacked):
    """Their mean is right on the images, with a probability of 0.4 or more for class 2."""
    members = Says(0.5, 0.1, 0.4), Says(*other)
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.full((3,), 2)
    attack = AttackSpec.parse("autoattack:attacks=apgd-ce").attack
    crafted = attack(switch(*members), x, y, Threat.parse("Linf:0.1"), torch.Generator().manual_seed(0))
    assert (members[0].followed > 0) == is_attacked
    assert crafted.images.equal(x) or is_attacked


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize(("threat", "dual"), [("Linf:0.1", 1), ("L2:0.1", 2)])
def test_one_member_meets_the_closed_form(attack, threat, dual):
    """Fooled where the margin is below eps times the dual norm of w, for members of any number."""
    x, y = centre(20, 4)
    w = torch.tensor([1.0, -2.0, 0.5, 3.0])
    reach = 0.1 * float(w.norm(p=dual))
    margins = torch.linspace(0.5, 1.5, 20) * reach + 1e-4
    x = x + (margins / w.norm() ** 2)[:, None, None, None] * w.view(1, 1, 1, 4)
    member = Side(w.tolist(), 0.0)
    for mixture in (switch(member), switch(member, Side(w.tolist(), 0.0))):
        found = accuracy(mixture, attack, x, y, threat)
        assert torch.allclose(found, (margins > reach).float()), found


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize("threat", ["Linf:0.1", "L2:0.15"])
def test_members_that_do_not_meet_are_fooled_together(attack, threat):
    mixture = switch(Side([1.0, 0.0], 0.09), Side([0.0, 1.0], 0.08))
    assert float(accuracy(mixture, attack, *centre(), threat)) == 0


@pytest.mark.parametrize("attack", JOINT)
@pytest.mark.parametrize("threat", ["Linf:0.1", "L2:0.1"])
def test_of_opposed_members_the_likelier_is_fooled(attack, threat):
    """Either can be fooled, both cannot: the optimum is the smaller weight."""
    members = Side([1.0, 0.0], 0.05), Side([-1.0, 0.0], 0.05)
    assert float(accuracy(switch(*members), attack, *centre(), threat)) == 0.5
    for weights in ([0.3, 0.7], [0.7, 0.3]):
        found = accuracy(switch(*members, weights=weights), attack, *centre(), threat)
        assert float(found) == pytest.approx(0.3)


@pytest.mark.parametrize("threat", ["Linf:0.1", "L2:0.1"])
def test_a_loud_member_hides_a_weak_one_from_the_expected_loss_only(threat):
    """The second member cannot be fooled, and the largest expected loss, 0.67 + 0.62, lies where it nearly
    is; where the first is fooled it is 0.72 + 0."""
    mixture = switch(Side([1.0, 0.0], 0.05), Side([-40.0, 0.0], 4.05))
    assert float(accuracy(mixture, "pgd:restarts=10", *centre(), threat)) == 1
    for attack in JOINT:
        assert float(accuracy(mixture, attack, *centre(), threat)) == 0.5


@pytest.mark.parametrize("attack", JOINT)
def test_three_members_of_which_two_go_together(attack):
    """The pair that agrees is worth 2/3; the third alone 1/3."""
    members = Side([1.0, 0.2], 0.05), Side([1.0, -0.2], 0.05), Side([-1.0, 0.0], 0.05)
    found = accuracy(switch(*members), attack, *centre(), "Linf:0.1")
    assert float(found) == pytest.approx(1 / 3)


@pytest.mark.parametrize("attack", [*JOINT, "joint:orders=1"])
def test_members_that_never_answer_pull_nowhere(attack):
    """Seven that are nearer to their boundary than the one that answers, and opposed to it."""
    silent = [Side([1.0, 0.0], 0.05 + place / 1000) for place in range(7)]
    mixture = switch(*silent, Side([-1.0, 0.0], 0.08), weights=[0.0] * 7 + [1.0])
    assert float(accuracy(mixture, attack, *centre(), "Linf:0.1")) == 0


@pytest.mark.parametrize("mean", ["loss", "probability", "logits"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_the_gradient_is_that_of_the_formula(loss, mean):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(6, 4)) for _ in range(3)]
    shares = [0.5, 0.3, 0.2]
    x, y = torch.rand(5, 1, 2, 3), torch.tensor([0, 1, 2, 3, 0])
    look = Objective(switch(*nets, weights=shares), y, loss, mean)(x)
    images = x.clone().requires_grad_()
    logits = [net(images) for net in nets]

    def value(z):
        if loss == "ce":
            return nn.functional.cross_entropy(z, y, reduction="none")
        true = z.gather(1, y[:, None])[:, 0]
        return z.scatter(1, y[:, None], -torch.inf).amax(1) - true

    wanted = {
        "loss": lambda: sum(s * value(z) for s, z in zip(shares, logits, strict=True)),
        "logits": lambda: value(sum(s * z for s, z in zip(shares, logits, strict=True))),
        "probability": lambda: value(
            sum(s * z.softmax(1) for s, z in zip(shares, logits, strict=True)).log()
        ),
    }[mean]()
    assert torch.allclose(look.loss, wanted.detach(), atol=1e-5)
    (slope,) = torch.autograd.grad(wanted.sum(), images)
    assert torch.allclose(look.gradient, slope, atol=1e-5)
    right = torch.stack([net(x).argmax(1) == y for net in nets]).float()
    assert torch.allclose(look.accuracy, (torch.tensor(shares)[:, None] * right).sum(0))


def test_checkpoints_of_apgd():
    """p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of 100 steps."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("attack", ["pgd", "apgd", "arc", "joint"])
@pytest.mark.parametrize("threat", ["Linf:0.1", "L2:0.1"])
def test_a_member_whose_gradient_is_nan_stops_nobody(attack, threat):
    mixture = switch(Cusp([1.0, 0.0], 0.05), Side([1.0, 0.0], 0.05))
    assert float(accuracy(mixture, attack, *centre(), threat)) == 0


def test_arc_is_for_linf_and_l2():
    with pytest.raises(ValueError, match="not for L1"):
        accuracy(switch(Side([1.0, 0.0], 0.05)), "arc", *centre(), "L1:0.1")


@pytest.mark.parametrize("attack", ["apgd:steps=100", "pgd:steps=40", "joint:steps=40"])
def test_l1_reaches_the_largest_weight(attack):
    """In L1 the dual norm is the largest |w|."""
    x, y = centre(2, 4)
    w = [1.0, -2.0, 0.5, 3.0]
    for margin, robust in ((0.28, 0.0), (0.32, 1.0)):
        found = accuracy(switch(Side(w, margin)), attack, x, y, "L1:0.1")
        assert found.tolist() == [robust, robust]


def odds(*members, attack="joint", **settings):
    generator = torch.Generator().manual_seed(0)
    attack = AttackSpec.parse(attack).attack
    return best_switch_weights(members, *centre(), Threat.parse("Linf:0.1"), attack, generator, **settings)


def test_the_defenders_best_odds():
    """A member that cannot be fooled gets all; opposed ones an even chance; of a pair that goes together and
    one alone the pair shares what the third has."""
    safe = odds(Side([1.0, 0.0], 0.2), Side([1.0, 0.0], 0.05))
    assert safe.weights == pytest.approx((1, 0))
    assert safe.error == 0
    even = odds(Side([1.0, 0.0], 0.05), Side([-1.0, 0.0], 0.05))
    assert even.weights == pytest.approx((0.5, 0.5), abs=0.02)
    assert even.error == pytest.approx(0.5, abs=0.02)
    trio = (Side([1.0, 0.2], 0.05), Side([1.0, -0.2], 0.05), Side([-1.0, 0.0], 0.05))
    found = odds(*trio)
    assert found.tried[0] == (pytest.approx((1 / 3, 1 / 3, 1 / 3)), pytest.approx(2 / 3))
    assert found.tried[1] == ((1.0, 0.0, 0.0), 1.0)
    assert found.error == pytest.approx(0.5, abs=0.02)
    assert found.weights[2] == pytest.approx(0.5, abs=0.02)


def test_a_fit_tells_what_each_attack_leaves():
    """Of opposed members one is fooled, so an even chance keeps a half and either alone nothing."""
    robust = []
    odds(Side([1.0, 0.0], 0.05), Side([-1.0, 0.0], 0.05), rounds=2, on_attack=robust.append)
    assert len(robust) == 3 < count_attacks(2, 2) == 5  # the first round has nothing better to try
    assert robust[:3] == pytest.approx([0.5, 0.0, 0.0])


@pytest.mark.parametrize("attack", ["joint", "joint:orders=1", "arc"])
def test_odds_of_opposed_members_of_unequal_margins(attack):
    """The nearer one is fooled first by who fools as many as possible; the other is no safer for it."""
    found = odds(Side([1.0, 0.0], 0.05), Side([-1.0, 0.0], 0.08), attack=attack)
    assert found.weights == pytest.approx((0.5, 0.5), abs=0.02)
    assert found.error == pytest.approx(0.5, abs=0.02)


def test_odds_come_from_what_was_attacked():
    """One of three cannot be fooled: 0.3 > 0.1 * |w|_1. It gets everything, and so has been attacked."""
    found = odds(Side([1.0, 0.0], 0.05), Side([0.0, 1.0], 0.05), Side([-1.0, -1.0], 0.3))
    assert found.weights == (0.0, 0.0, 1.0)
    assert found.error == 0
    assert (found.weights, found.error) in found.tried
    assert found.error == min(error for _, error in found.tried)


def test_descent_against_given_outcomes():
    """On the first image either the first member falls or the other two do; on the second only the first
    does. With a the weight of the first the mean error is (max(a, 1 - a) + a) / 2: one half up to a = 1/2,
    more beyond."""
    wrong = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    weights, error = descend(wrong.double())
    assert error == pytest.approx(0.5, abs=1e-6)
    assert float(weights[0]) <= 0.5
    assert float(weights.sum()) == pytest.approx(1)
    # Each of three members falls alone: equal chances, and a third is lost.
    weights, error = descend(torch.eye(3, dtype=torch.float64)[:, :, None])
    assert weights.tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    assert error == pytest.approx(1 / 3, abs=0.01)
    # One member falls half as often as the other, on images of its own: it gets everything.
    apart = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]).double()
    weights, error = descend(apart)
    assert weights.tolist() == pytest.approx([0, 1])
    assert error == pytest.approx(1 / 3)


def test_projection_onto_the_simplex():
    assert project_to_simplex(torch.tensor([0.2, 0.3, 0.5])).tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert project_to_simplex(torch.tensor([2.0, 0.0, 0.0])).tolist() == pytest.approx([1, 0, 0])
    assert project_to_simplex(torch.tensor([0.6, 0.6, -1.0])).tolist() == pytest.approx([0.5, 0.5, 0])
