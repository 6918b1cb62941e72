"""The layers that certificates know: bounds on random points, backward, rounding, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn, relu_

from rstbench.certificates import patches
from rstbench.certificates.backward import Region
from rstbench.certificates.crown import Crown
from rstbench.certificates.ibp import IBP
from rstbench.certificates.intervals import interval_knowledge
from rstbench.certificates.linear_bounds import linear_bounds
from rstbench.certificates.milp import Milp
from rstbench.certificates.network import read_network
from rstbench.certificates.operations import Convolution
from rstbench.certificates.pullbacks import affine_matrix, convolved
from rstbench.certificates.regions import proved_radius
from rstbench.certificates.rounding import error_bounds
from rstbench.errors import BadRequest
from rstbench.networks.network import NetworkSpec, build
from rstbench.threat import Threat
from tests.known.certified_nets import ALL, LOCAL, linear, network_named, points

NORMS = ("Linf", "L2", "L1")
EPS = {"Linf": "0.05", "L2": "0.3", "L1": "0.9"}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALL)
def test_bounds_hold_layer_by_layer(name, norm, generator):
    net, threat = network_named(name), Threat.parse(f"{norm}:{EPS[norm]}")
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


@pytest.mark.parametrize("name", LOCAL)
def test_patches_change_no_bound(name, generator, monkeypatch):
    net, x = network_named(name), torch.rand(1, 2, 6, 6, generator=generator)
    network, region = read_network(net, x.shape[1:]), Region(x.double(), "Linf", 0.05)
    whole = linear_bounds(network, region)
    monkeypatch.setattr(patches, "LEAST_VALUES", 0)
    monkeypatch.setattr(patches, "MOST_SHARE", 1.0)
    monkeypatch.setattr(patches, "NEURONS", 1)
    parts = linear_bounds(network, region)
    refined = network.inputs_of_nonlinear().values()
    assert max(len(patches.patches(parts.known, place)) for place in refined if place) > 1
    assert parts.propagated == whole.propagated
    for place, bounds in whole.known.bounds.items():
        for one, other in zip(bounds, parts.known.bounds[place], strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-10), network.nodes[place].name


@pytest.mark.parametrize("name", ALL)
def test_layers_backward_are_transposes(name, generator):
    network = read_network(network_named(name), (2, 6, 6))
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
    net, x = network_named(name), torch.rand(4, 2, 6, 6, generator=generator)
    y, threat = net(x).argmax(1), Threat.parse(f"{norm}:{EPS[norm]}")
    margins = [certificate(net, x, y, threat).margins for certificate in (IBP(), Crown(), Crown(3))]
    assert (margins[0] <= margins[1] + 1e-12).all()
    assert (margins[1] <= margins[2] + 1e-12).all()
    lowest = net(points(threat, x, 100, generator).flatten(0, 1)).unflatten(0, (100, 4))
    others = lowest.scatter(2, y.expand(100, 4)[..., None], -torch.inf).amax(2)
    least = (lowest.gather(2, y.expand(100, 4)[..., None])[..., 0] - others).amin(0)
    assert (margins[2] <= least).all()


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


@pytest.mark.parametrize("name", ALL)
def test_rounding_is_within_its_bound(name, generator):
    net, x = network_named(name), torch.rand(200, 2, 6, 6, generator=generator)
    network = read_network(net, x.shape[1:])
    values = network.values(x)
    difference, bound = (net(x).double() - values[-1]).abs(), error_bounds(network, values)
    assert float(difference.amax()) > 0
    assert (difference <= bound).all()
    assert float(bound.amax()) < 1e-3 * float(values[-1].abs().amax())


def test_networks_of_this_package_are_known(generator):
    for name in ("conv2", "resnet18", "preactresnet18", "vgg16"):
        net = build(NetworkSpec(name, (1, 32, 32), 10, 1 / 32)).eval()
        x = torch.rand(3, 1, 32, 32, generator=generator)
        values = read_network(net, x.shape[1:]).values(x)
        assert torch.allclose(values[-1].float(), net(x), rtol=1e-3, atol=1e-4), name


def test_hooks_are_refused_for_they_compute_what_is_not_read():
    """Zero on the clean images, the hook changes the class elsewhere: nothing may be proved."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].register_forward_hook(lambda part, x, out: out + (x[0] != 0.5).any(1, keepdim=True) * 100)
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(BadRequest, match="network with hooks, as on 1"):
        Crown()(net, x, y, Threat.parse("Linf:0.1"))


def test_a_method_of_a_layers_own_is_refused_for_it_computes_what_is_not_read():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    shipped = net[1].forward
    net[1].forward = lambda x: shipped(x) + (x != 0.5).any(1, keepdim=True) * 100
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(BadRequest, match="in which 1 has a method of its own"):
        Crown()(net, x, y, Threat.parse("Linf:0.1"))


class InPlace(nn.Module):
    """Reads a layer after a ReLU has changed it, or a view of it, in place. At 0.5 it changes nothing."""

    def __init__(self, of_view):
        super().__init__()
        self.convolution, self.of_view = nn.Conv2d(1, 1, 1), of_view
        self.first, self.second = nn.Linear(1, 2), nn.Linear(1, 2, bias=False)
        for layer, weight, bias in (
            (self.convolution, [[[[1.0]]]], [-0.45]),
            (self.first, [[-1.0], [0.0]], [-0.4, 0.0]),
            (self.second, [[1.0], [0.0]], None),
        ):
            layer.weight.data = torch.tensor(weight)
            if bias:
                layer.bias.data = torch.tensor(bias)

    def forward(self, x):
        hidden = self.convolution(x)
        relu_(hidden.flatten(1) if self.of_view else hidden)
        return self.first(hidden.flatten(1)) + self.second(x.flatten(1))


def test_a_layer_of_which_a_view_was_changed_in_place_is_refused():
    x, threat = torch.full((1, 1, 1, 1), 0.5), Threat.parse("Linf:0.2")
    net = InPlace(of_view=False).requires_grad_(False).eval()
    y = net(x).argmax(1)
    assert net(torch.full_like(x, 0.31)).argmax(1) != y
    assert not Crown()(net, x, y, threat).proved.any()
    with pytest.raises(BadRequest, match="reads a layer of which a view was changed in place"):
        Crown()(InPlace(of_view=True).requires_grad_(False).eval(), x, y, threat)
