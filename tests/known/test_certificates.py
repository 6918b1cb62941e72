"""Certificates against answers that are known: linear models, random points of the ball, rescaling."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from rstbench.attacks import PGD
from rstbench.certificates import CertificateSpec
from rstbench.certificates.crown import Crown
from rstbench.certificates.ibp import IBP
from rstbench.certificates.milp import Milp
from rstbench.certificates.regions import linear_minimum, proved_radius
from rstbench.errors import BadRequest, ModelFault
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat
from tests.known.certified_nets import linear, network_named, points

NORMS = ("Linf", "L2", "L1")
TICKET = "ticket:leaderboards/digits/tickets/rst-0.05-seed0.safetensors"


def best_by_bisection(c, x, eps):
    """The L2 minimum of c·z over ball and box by bisection on the multiplier, in python."""
    if not eps:
        return float(c @ x)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        move = (-c / middle).clamp(-x, 1 - x) if middle else torch.where(c > 0, -x, 1 - x)
        low, high = (middle, high) if move.norm() > eps else (low, middle)
    return float(c @ (x + move))


def closed_form(c, x, norm, eps):
    """The least value of c·z for one image, written down pixel by pixel."""
    if norm == "Linf":
        return float(torch.where(c > 0, c * (x - eps).clamp_min(0), c * (x + eps).clamp_max(1)).sum())
    if norm == "L2":
        return best_by_bisection(c, x, eps)
    value, left = float(c @ x), eps
    for pixel in c.abs().argsort(descending=True).tolist():
        move = min(left, float(x[pixel] if c[pixel] > 0 else 1 - x[pixel]))
        value, left = value - move * abs(float(c[pixel])), left - move
    return value


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("walls", [False, True])
@pytest.mark.parametrize("eps", ["0.01", "0.2", "0.9"])
def test_linear_models_have_the_closed_form(norm, walls, eps, generator):
    net = linear(0)
    x = torch.rand(6, 3, 2, 2, generator=generator)
    x = x.round() if walls else x
    y, threat = net(x).argmax(1), Threat.parse(f"{norm}:{eps}")
    weight, bias = net[1].weight.double(), net[1].bias.double()
    certified = Crown()(net, x, y, threat)
    for index, label in enumerate(y.tolist()):
        others = [k for k in range(3) if k != label]
        image = x[index].double().flatten()
        least = min(
            closed_form(weight[label] - weight[k], image, norm, proved_radius(threat))
            + float(bias[label] - bias[k])
            for k in others
        )
        assert certified.margins[index] == pytest.approx(least, abs=2 * certified.error_bound + 1e-9)
        assert certified.margins[index] <= least
    assert 0 < certified.error_bound < 1e-5
    assert certified.proved.equal(certified.margins > 0)
    if norm != "L2":
        assert Milp()(net, x, y, threat).proved.equal(certified.proved)


@given(seed=st.integers(0, 10**6), zero=st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_least_values_over_ball_and_box(seed, zero):
    generator = Generator().manual_seed(seed)
    c = torch.randn(7, generator=generator, dtype=torch.float64)
    c = torch.where(torch.rand(7, generator=generator) < 0.4, 0.0, c) if zero else c
    x = (2 * torch.rand(7, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)
    for norm in NORMS:
        for eps in (0.0, 0.05, 0.7, 5.0):
            found = float(linear_minimum(c, x, norm, eps))
            assert found == pytest.approx(closed_form(c, x, norm, eps), abs=1e-7)


@pytest.mark.parametrize("name", ["padding", "maxpool", "residual"])
def test_nothing_in_the_ball_of_a_proved_image_changes_the_class(name, generator):
    net, threat = network_named(name), Threat.parse("Linf:0.02")
    x = torch.rand(20, 2, 6, 6, generator=generator)
    y = net(x).argmax(1)
    proved = Crown(5)(net, x, y, threat).proved
    assert proved.any()
    x, y = x[proved], y[proved]
    moved = points(threat, x, 1000, generator)
    assert (net(moved.flatten(0, 1)).argmax(1).view(1000, -1) == y).all()
    assert (net(PGD(restarts=20)(net, x, y, threat, generator).images).argmax(1) == y).all()


def two_convolutions(first=1.0, second=1.0):
    """A network whose layers are multiplied by powers of two that the last one takes back."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False).eval()
    for layer, weight, bias in ((0, first, first), (3, second, first * second), (6, 1 / first / second, 1.0)):
        net[layer].weight.mul_(weight)
        net[layer].bias.mul_(bias)
    return net


@pytest.mark.parametrize("certificate", [IBP(), Crown(), Crown(5)])
def test_rescaled_layers_change_no_verdict(certificate, generator):
    net, scaled, x = (
        two_convolutions(),
        two_convolutions(8.0, 0.25),
        torch.rand(20, 2, 6, 6, generator=generator),
    )
    y = net(x).argmax(1)
    assert scaled(x).equal(net(x))
    for eps in ("0.005", "0.02", "0.05"):
        threat = Threat.parse(f"Linf:{eps}")
        one, other = certificate(net, x, y, threat), certificate(scaled, x, y, threat)
        assert one.proved.equal(other.proved)
        assert torch.allclose(one.margins, other.margins, rtol=1e-9, atol=1e-12)


def test_a_network_with_hooks_that_change_it_is_found_out():
    net = linear(0)
    net[1].register_forward_hook(lambda module, given, out: out + 1.0)
    with pytest.raises(BadRequest, match="network with hooks, as on 1"):
        IBP()(net, torch.rand(3, 3, 2, 2), net(torch.rand(3, 3, 2, 2)).argmax(1), Threat.parse("Linf:0.1"))


def test_a_network_that_is_traced_as_another_function_is_found_out():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = linear(0)

        def forward(self, x):
            return self.net(x) + (0.0 if isinstance(x, torch.fx.Proxy) else 1.0 * x.flatten(1)[:, :3])

    net, x = Twice(), torch.rand(3, 3, 2, 2)
    with pytest.raises(ModelFault, match="other logits"):
        IBP()(net, x, net(x).argmax(1), Threat.parse("Linf:0.1"))


def test_images_that_the_model_gets_wrong_are_not_proved():
    net, x = linear(0), torch.rand(8, 3, 2, 2)
    y = (net(x).argmax(1) + torch.arange(8) % 2) % 3
    for certificate in (IBP(), Crown(), Milp()):
        certified = certificate(net, x, y, Threat.parse("Linf:0"))
        assert certified.proved.tolist() == [True, False] * 4
        assert certified.margins.isnan().tolist() == [False, True] * 4
    assert not Crown()(net, x, (net(x).argmax(1) + 1) % 3, Threat.parse("L1:1")).proved.any()


def test_text_names_a_certificate():
    spec = CertificateSpec.parse("crown:alpha=20")
    assert (spec.family, spec.certificate, str(spec)) == ("crown", Crown(20), "crown:alpha=20")
    assert str(CertificateSpec.parse("crown:alpha=0")) == "crown"
    assert str(CertificateSpec.parse("milp:seconds=60")) == "milp"
    assert str(CertificateSpec.parse("milp:seconds=2.50")) == "milp:seconds=2.5"
    assert dataclasses.is_dataclass(CertificateSpec.parse("ibp").certificate)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("crwn", "no certificate named 'crwn'; did you mean 'crown'?"),
        ("crown:alfa=3", "no option of 'crown' named 'alfa'; did you mean 'alpha'?"),
        ("crown:alpha=-1", "alpha must not be negative"),
        ("milp:seconds=0", "seconds must be positive"),
        ("crown:alpha=x", "wants a whole number"),
    ],
)
def test_wrong_texts_are_refused(text, said):
    with pytest.raises(BadRequest) as error:
        CertificateSpec.parse(text)
    assert said in str(error.value)


@pytest.mark.slow
def test_a_ticket_is_proved_as_far_as_is_known():
    """What another implementation of CROWN proves of the first 20 digits at 0.02 and 0.03, at least."""
    from rstbench.data import load

    data, net = load("digits:test:20"), load_reference(TICKET).module
    for eps, least in (("0.02", 17), ("0.03", 10)):
        assert (
            int(Crown()(net, data.pixels.float(), data.labels, Threat.parse(f"Linf:{eps}")).proved.sum())
            >= least
        )
