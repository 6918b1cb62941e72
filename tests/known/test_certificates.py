"""Certificates against answers that are known: linear models, random points of the ball, rescaling."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn
from torch.nn import functional

from rstbench.attacks import PGD
from rstbench.certificates import CertificateSpec, patches
from rstbench.certificates.backward import Region
from rstbench.certificates.crown import Crown
from rstbench.certificates.ibp import IBP
from rstbench.certificates.intervals import interval_knowledge
from rstbench.certificates.linear_bounds import linear_bounds
from rstbench.certificates.milp import Milp
from rstbench.certificates.network import read_network
from rstbench.certificates.operations import Convolution
from rstbench.certificates.pullbacks import affine_matrix, convolved
from rstbench.certificates.regions import linear_minimum, proved_radius
from rstbench.certificates.rounding import error_bounds
from rstbench.errors import BadRequest, ModelFault
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build
from rstbench.networks.normalise import normalisation_layer
from rstbench.threat import Threat

NORMS = ("Linf", "L2", "L1")
EPS = {"Linf": "0.05", "L2": "0.3", "L1": "0.9"}
TICKET = "ticket:leaderboards/digits/tickets/rst-0.05-seed0.safetensors"


class Residual(nn.Module):
    """A block with a strided shortcut, as in the networks of this package, behind a normalisation."""

    def __init__(self):
        super().__init__()
        self.normalise = normalisation_layer((0.4, 0.5), (0.3, 0.2))
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4, affine=False)
        self.shortcut = nn.Conv2d(2, 4, 1, 2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.normalise(x)
        out = torch.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.shortcut(x))
        return self.fc(functional.adaptive_avg_pool2d(out, 1).flatten(1))


class Functional(nn.Module):
    """Functions and methods in place of layers, a norm that nothing can take in, a reshape."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(2)
        self.conv = nn.Conv2d(2, 4, (3, 2), (1, 2), padding=1, dilation=(1, 2))
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = functional.relu(self.conv(self.bn((x - 0.5) * 2)))
        x = functional.dropout(functional.max_pool2d(x, 2, 1, 1), 0.5, self.training)
        x = functional.avg_pool2d(x, (2, 1), 2).contiguous()
        return self.fc(x.reshape(x.size(0), -1)) / 3 + 1.0


def networks(name):
    """A small network in eval mode for images (2, 6, 6), with norms that have seen something."""
    torch.manual_seed(1)
    nets = {
        "padding": lambda: [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU()],
        "stride": lambda: [nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2, 2)],
        "grouped": lambda: [nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)],
        "same": lambda: [nn.Conv2d(2, 4, 3, padding="same", dilation=2), nn.ReLU(), nn.Dropout()],
        "maxpool": lambda: [
            nn.Conv2d(2, 4, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 2),
            nn.ReLU(),
        ],
        "pool-first": lambda: [
            nn.Conv2d(2, 4, 3, 1, 1),
            nn.MaxPool2d(3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 2),
        ],
        "pool-of-pixels": lambda: [nn.MaxPool2d(2), nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Identity()],
        "avgpool": lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 3, 1), nn.ReLU()],
        "global": lambda: [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)],
    }
    if name == "residual":
        net = Residual()
    elif name == "functional":
        net = Functional()
    else:
        layers = nn.Sequential(*nets[name](), nn.Flatten())
        width = layers.eval()(torch.zeros(1, 2, 6, 6)).shape[1]
        net = nn.Sequential(*layers, nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    net.train()
    for _ in range(3):
        net(torch.rand(32, 2, 6, 6))
    return net.eval().requires_grad_(False)


ALL = ["padding", "stride", "grouped", "same", "maxpool", "pool-first", "pool-of-pixels", "avgpool", "global"]
ALL += ["residual", "functional"]


def points(threat, x, count, generator):
    """Random points of each ball in the box, and corners of it, (count, n, c, h, w)."""
    found = [threat.sample(x, generator) for _ in range(count // 2)]
    for _ in range(count - len(found)):
        direction = torch.randn(x.shape, generator=generator)
        found.append(threat.project(x, x + 10 * float(threat.eps) * threat.steepest(direction)))
    return torch.stack(found)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALL)
def test_bounds_hold_layer_by_layer(name, norm, generator):
    net, threat = networks(name), Threat.parse(f"{norm}:{EPS[norm]}")
    x = torch.rand(2, 2, 6, 6, generator=generator).round(decimals=1).clamp(0, 1)  # some lie on the walls
    network = read_network(net, x.shape[1:])
    assert torch.allclose(network.values(x)[-1], net.double()(x.double()), atol=1e-12)
    for index in range(2):
        region = Region(x[index : index + 1].double(), norm, proved_radius(threat))
        moved = points(threat, x[index : index + 1], 100, generator)[:, 0]
        exact = network.values(moved)
        for known in (interval_knowledge(network, region), linear_bounds(network, region).known):
            for place, (lower, upper) in known.bounds.items():
                node = network.nodes[place].name
                assert (exact[place] >= lower).all(), node
                assert (exact[place] <= upper).all(), node


@pytest.mark.parametrize(
    "name", ["padding", "stride", "same", "maxpool", "pool-first", "residual", "functional"]
)
def test_patches_change_no_bound(name, generator, monkeypatch):
    net, x = networks(name), torch.rand(1, 2, 6, 6, generator=generator)
    network, region = read_network(net, x.shape[1:]), Region(x.double(), "Linf", 0.05)
    whole = linear_bounds(network, region)
    monkeypatch.setattr(patches, "LEAST_VALUES", 0)
    monkeypatch.setattr(patches, "MOST_SHARE", 1.0)
    monkeypatch.setattr(patches, "NEURONS", 9)
    parts = linear_bounds(network, region)
    assert parts.propagated == whole.propagated
    for place, bounds in whole.known.bounds.items():
        for one, other in zip(bounds, parts.known.bounds[place], strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-10), network.nodes[place].name


@pytest.mark.parametrize(
    "name", ["padding", "stride", "grouped", "same", "avgpool", "residual", "functional"]
)
def test_layers_backward_are_transposes(name, generator):
    network = read_network(networks(name), (2, 6, 6))
    for node in network.nodes:
        if node.back is None:
            continue
        before, after = network.nodes[node.inputs[0]].shape, node.shape
        whole = affine_matrix(node.operation, before, after).to_dense()
        x = torch.randn(3, *before, generator=generator).double()
        assert torch.allclose(node.operation.linear(x).flatten(1), x.flatten(1) @ whole.T)
        v = torch.randn(len(whole), 5, generator=generator).double()
        assert torch.allclose(node.back.pull(v), whole.T @ v)
        picked = torch.tensor([0, len(whole) - 1])
        assert torch.allclose(node.back.pick(picked), whole[picked].T)
        if isinstance(node.operation, Convolution):
            back = convolved(node.operation, before, after)
            assert torch.allclose(back.pull(v), whole.T @ v)
            assert torch.allclose(back.pick(picked), whole[picked].T)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALL)
def test_each_certificate_is_stronger_than_the_one_before(name, norm, generator):
    net, x = networks(name), torch.rand(4, 2, 6, 6, generator=generator)
    y, threat = net(x).argmax(1), Threat.parse(f"{norm}:{EPS[norm]}")
    margins = [certificate(net, x, y, threat).margins for certificate in (IBP(), Crown(), Crown(3))]
    assert (margins[0] <= margins[1]).all()
    assert (margins[1] <= margins[2]).all()
    lowest = net(points(threat, x, 100, generator).flatten(0, 1)).unflatten(0, (100, 4))
    others = lowest.scatter(2, y.expand(100, 4)[..., None], -torch.inf).amax(2)
    least = (lowest.gather(2, y.expand(100, 4)[..., None])[..., 0] - others).amin(0)
    assert (margins[2] <= least).all()


def linear(seed, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).requires_grad_(False).eval()


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
    net, threat = networks(name), Threat.parse("Linf:0.02")
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


@pytest.mark.parametrize("certificate", [IBP(), Crown()])
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


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.conv, self.odd, self.fc = nn.Conv2d(2, 2, 3), layer, nn.Linear(32, 3)

    def forward(self, x):
        return self.fc(self.odd(self.conv(x)).flatten(1))


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.GELU(), "GELU"),
        (nn.Sigmoid(), "Sigmoid"),
        (nn.Conv2d(2, 2, 1, padding_mode="circular", padding=0), "Conv2d: pads with 'circular'"),
        (nn.BatchNorm2d(2, track_running_stats=False), "BatchNorm2d"),
        (nn.AdaptiveAvgPool2d(4), "AdaptiveAvgPool2d: pools to 4, not to 1"),
    ],
)
def test_unknown_layers_are_refused_by_name(layer, kind):
    net = Wrapped(layer).eval()
    with pytest.raises(BadRequest) as error:
        Crown()(net, torch.rand(1, 2, 6, 6), torch.zeros(1).long(), Threat.parse("Linf:0.1"))
    assert str(error.value) == f"no certificate knows the layer 'odd' of type {kind}"


def test_other_networks_are_refused_in_one_line():
    class Branching(nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    class Multiplying(nn.Module):
        def forward(self, x):
            return x.flatten(1) * x.flatten(1)

    class Sized(nn.Module):
        def forward(self, x):
            return x.flatten(1) / x.shape[1]

    class Tokens(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1)

    x, y, threat = torch.rand(1, 2, 2, 2), torch.zeros(1).long(), Threat.parse("L2:0.1")
    for net, said in (
        (Branching(), "cannot be traced"),
        (Multiplying(), "layer 'mul' of type mul: combines two layers"),
        (Sized(), "has a constant that is not fixed"),
        (Tokens(), "'reshape' of type reshape: reshapes to sizes that are not fixed"),
        (linear(0).half(), "float32 networks, this one holds torch.float16"),
    ):
        with pytest.raises(BadRequest, match=said) as error:
            Crown()(net, x, y, threat)
        assert "\n" not in str(error.value)
    with pytest.raises(BadRequest, match="milp proves Linf and L1"):
        Milp()(linear(0), torch.rand(1, 3, 2, 2), y, threat)


def test_a_network_with_hooks_that_change_it_is_found_out():
    net = linear(0)
    net[1].register_forward_hook(lambda module, given, out: out + 1.0)
    with pytest.raises(ModelFault, match="other logits"):
        IBP()(net, torch.rand(3, 3, 2, 2), net(torch.rand(3, 3, 2, 2)).argmax(1), Threat.parse("Linf:0.1"))


@pytest.mark.parametrize("name", ALL)
def test_rounding_is_within_its_bound(name, generator):
    net, x = networks(name), torch.rand(200, 2, 6, 6, generator=generator)
    network = read_network(net, x.shape[1:])
    values = network.values(x)
    difference, bound = (net(x).double() - values[-1]).abs(), error_bounds(network, values)
    assert float(difference.amax()) > 0
    assert (difference <= bound).all()
    assert float(bound.amax()) < 1e-3 * float(values[-1].abs().amax())


def test_images_that_the_model_gets_wrong_are_not_proved():
    net, x = linear(0), torch.rand(8, 3, 2, 2)
    y = (net(x).argmax(1) + torch.arange(8) % 2) % 3
    for certificate in (IBP(), Crown(), Milp()):
        certified = certificate(net, x, y, Threat.parse("Linf:0"))
        assert certified.proved.tolist() == [True, False] * 4
        assert certified.margins.isnan().tolist() == [False, True] * 4
    assert not Crown()(net, x, (net(x).argmax(1) + 1) % 3, Threat.parse("L1:1")).proved.any()


def test_networks_of_this_package_are_known(generator):
    for name in ("conv2", "resnet18", "preactresnet18", "vgg16"):
        net = build(NetworkSpec(name, (1, 32, 32), 10, 1 / 32)).eval()
        x = torch.rand(3, 1, 32, 32, generator=generator)
        values = read_network(net, x.shape[1:]).values(x)
        assert torch.allclose(values[-1].float(), net(x), rtol=1e-3, atol=1e-4), name


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
