"""The geometry of the ball, by properties."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rstbench.errors import BadRequest, OutsideBall
from rstbench.threat import Threat

SIZES = {"Linf": ["0", "8/255", "0.3", "1"], "L2": ["0", "0.5", "3"], "L1": ["0", "1", "12"]}
THREATS = [Threat.parse(f"{norm}:{eps}") for norm, sizes in SIZES.items() for eps in sizes]
DUAL = {"Linf": 1, "L2": 2, "L1": float("inf")}

threats = st.sampled_from(THREATS)
seeds = st.integers(0, 2**31)


def images(seed, n=3, scale=1.0, offset=0.0):
    return torch.rand(n, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale + offset


@settings(deadline=None)
@given(threats, seeds, st.floats(0.01, 5))
def test_projection_lands_in_ball_and_box(threat, seed, scale):
    x, adv = images(seed), images(seed + 1, scale=scale, offset=-scale / 2)
    threat.check(x, threat.project(x, adv))


@settings(deadline=None)
@given(threats, seeds)
def test_projection_leaves_a_point_inside_where_it_is(threat, seed):
    x = images(seed)
    inside = threat.sample(x, torch.Generator().manual_seed(seed))
    assert torch.allclose(threat.project(x, inside), inside, atol=1e-6)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_a_point_outside_lands_on_the_sphere(norm):
    threat = Threat(norm, Fraction(1, 10))
    x = torch.full((2, 1, 4, 4), 0.5)
    adv = x + 0.2 * torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert threat.distance(x, threat.project(x, adv)) == pytest.approx([0.1, 0.1], abs=1e-6)


def test_l1_projection_is_the_nearest_point():
    # Duchi et al. 2008: (3, 1) onto the unit ball is soft-thresholding by 2.
    threat = Threat("L1", Fraction(1))
    x = torch.full((1, 1, 1, 2), 0.0)
    projected = threat.project(x, torch.tensor([[[[0.9, 0.5]]]]))
    assert torch.allclose(projected, torch.tensor([[[[0.7, 0.3]]]]))


@settings(deadline=None)
@given(threats, seeds)
def test_distance_is_the_norm(threat, seed):
    x, adv = images(seed), images(seed + 7)
    order = {"Linf": float("inf"), "L2": 2, "L1": 1}[threat.norm]
    expected = torch.linalg.vector_norm((adv.double() - x.double()).flatten(1), ord=order, dim=1)
    assert torch.allclose(threat.distance(x, adv), expected)


@settings(deadline=None)
@given(threats, seeds)
def test_steepest_reaches_the_dual_norm(threat, seed):
    gradient = images(seed, offset=-0.5)
    direction = threat.steepest(gradient)
    gain = (gradient * direction).flatten(1).sum(1)
    dual = torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL[threat.norm], dim=1)
    assert torch.allclose(gain, dual, rtol=1e-5)
    zero = torch.zeros_like(direction)
    assert (threat.distance(zero, direction) <= 1 + 1e-5).all()


@settings(deadline=None)
@given(threats, seeds, st.floats(0.0, 15.0))
def test_step_stays_in_the_box_and_within_its_length(threat, seed, size):
    x, gradient = images(seed), images(seed + 3, offset=-0.5)
    moved = threat.step(x, gradient, size)
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert (threat.distance(x, moved) <= size * (1 + 1e-4) + 1e-5).all()
    assert ((moved - x) * gradient >= 0).all()


def test_l1_step_fills_the_steepest_pixels_up_to_their_walls():
    x = torch.tensor([[[[0.5, 0.2, 0.9]]]])
    gradient = torch.tensor([[[[1.0, -3.0, 2.0]]]])
    # 0.2 down on the second pixel, 0.1 up on the third, and the rest of 0.4 on the first.
    assert torch.allclose(
        Threat("L1", Fraction(1)).step(x, gradient, 0.4), torch.tensor([[[[0.6, 0.0, 1.0]]]])
    )


@settings(deadline=None)
@given(threats, seeds)
def test_sample_is_inside_and_seeded(threat, seed):
    x = images(seed)
    start = threat.sample(x, torch.Generator().manual_seed(seed))
    threat.check(x, start)
    assert start.equal(threat.sample(x, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_sample_is_uniform_in_radius(norm):
    # In d dimensions the radius of a uniform point has the distribution r^d: median 0.5^(1/d).
    threat, x = Threat(norm, Fraction(1, 4)), torch.full((4000, 1, 1, 2), 0.5)
    radius = threat.distance(x, threat.sample(x, torch.Generator().manual_seed(0))) / 0.25
    assert float(radius.median()) == pytest.approx(0.5**0.5, abs=0.02)


def test_check_refuses_what_is_outside():
    threat, x = Threat.parse("Linf:0.1"), torch.full((1, 1, 2, 2), 0.05)
    threat.check(x, x + 0.1)
    for wrong in (x + 0.101, x - 0.06, x * float("nan"), x[:, :, :1]):
        with pytest.raises(OutsideBall):
            threat.check(x, wrong)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Linf:8/255", "Linf:8/255"),
        ("Linf:1/10", "Linf:0.1"),
        (" L2:.5 ", "L2:0.5"),
        ("Linf:3/255", "Linf:3/255"),
    ],
)
def test_text_is_canonical_and_exact(text, canonical):
    threat = Threat.parse(text)
    assert str(threat) == canonical
    assert Threat.parse(str(threat)) == threat


@given(st.fractions(0, 1, max_denominator=10**15))
def test_text_never_loses_eps(eps):
    assert Threat.parse(str(Threat("Linf", eps))).eps == eps


@pytest.mark.parametrize(
    "text", ["linf 8", "Linf", "Linf:", "Linf:-1", "L3:1", "Linf:1/0", "Linf:8", "Linf:nan"]
)
def test_malformed_text_is_refused(text):
    with pytest.raises(BadRequest, match="Linf"):
        Threat.parse(text)


@pytest.mark.parametrize("text", ["L1:0.02", "L1:0.001", "L2:0.0001"])
def test_what_rounding_moved_out_is_pulled_back(text):
    """A step of eps spread over 3,072 pixels ends outside by rounding; a larger one is no rounding."""
    threat = Threat.parse(text)
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    length = delta.flatten(1).norm(p=int(threat.norm[1]), dim=1).view(-1, 1, 1, 1)
    adv = (x + float(threat.eps) * delta / length).float()
    with pytest.raises(OutsideBall):
        threat.check(x, adv)
    threat.check(x, threat.pull_back(x, adv))
    far = (x + (float(threat.eps) + 0.01) * delta / length).float()
    assert torch.equal(threat.pull_back(x, far), far)


def test_images_inside_are_left_as_they_are():
    threat, x = Threat.parse("L1:1"), images(0)
    adv = threat.sample(x, torch.Generator().manual_seed(0))
    assert threat.pull_back(x, adv) is adv
