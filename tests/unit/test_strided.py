"""Strided convolutions with shuffled gradients: the library's values, and its gradients up to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.fx
from torch import nn

from rstbench.models.fast_copy import CopyPlan, FastCopy, make_copy, plan_copy
from rstbench.models.strided import MOST_CHANNELS, ShuffledConv2d, with_shuffled_gradients


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(layer):
    """A frozen layer alone in a graph, and the same with the other gradient."""
    plain = torch.fx.symbolic_trace(nn.Sequential(layer)).requires_grad_(False)
    shuffled = copy.deepcopy(plain)
    assert with_shuffled_gradients(shuffled)
    assert isinstance(shuffled.get_submodule("0"), ShuffledConv2d)
    return plain, shuffled


def gradient(net, x):
    """The gradient of a fixed sum of squares, which depends on x."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = net(x)
    return torch.autograd.grad((y.square() * normal(*y.shape)).sum(), x)[0]


def relative(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_values_are_the_librarys_and_gradients_up_to_rounding(kernel, stride, padding, layout):
    torch.manual_seed(0)
    plain, shuffled = pair(nn.Conv2d(3, 5, kernel, stride, padding, bias=kernel != 2))
    plain, shuffled = plain.to(memory_format=layout), shuffled.to(memory_format=layout)
    for height, width in ((8, 8), (9, 9), (7, 10), (11, 6), (5, 5)):
        x = normal(4, 3, height, width).to(memory_format=layout)
        assert shuffled(x.requires_grad_()).equal(plain(x))
        assert relative(gradient(shuffled, x), gradient(plain, x)) < 1e-5


def test_a_gradient_by_hand():
    """Taps 1 2 3 4 down a column, stride 2, padding 1: pixel u gets tap u + 1 - 2p of each output p."""
    layer = nn.Conv2d(1, 1, 4, 2, 1, bias=False)
    layer.weight.data.copy_(torch.outer(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.0, 1, 0, 0])))
    _, shuffled = pair(layer)
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    given = torch.tensor([[[[1.0, 0], [10, 0]]]])
    (found,) = torch.autograd.grad(shuffled(x), x, given)
    wanted = torch.zeros(4, 4)
    wanted[:, 0] = torch.tensor([2.0, 3 + 10 * 1, 4 + 10 * 2, 10 * 3])
    assert found[0, 0].equal(wanted)


def test_every_kind_of_derivative_is_there():
    torch.manual_seed(0)
    plain, shuffled = pair(nn.Conv2d(3, 5, 4, 2, 1))
    x, tangent = normal(2, 3, 9, 8), normal(2, 3, 9, 8, seed=1)

    def pulled(net):
        y, pull = torch.func.vjp(net, x)
        return pull(torch.ones_like(y))[0]

    def derivative_forward(net):
        return torch.func.jvp(net, (x,), (tangent,))[1]

    def by_image(net):
        return torch.func.vmap(torch.func.grad(lambda image: net(image[None]).square().sum()))(x)

    def forward_over_reverse(net):
        return torch.func.jvp(lambda x: torch.func.grad(lambda x: net(x).pow(3).sum())(x), (x,), (tangent,))[
            1
        ]

    def reverse_over_reverse(net):
        inner = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(net(inner).pow(3).sum(), inner, create_graph=True)
        return torch.autograd.grad((first * tangent).sum(), inner)[0]

    for derivative in (pulled, derivative_forward, by_image, forward_over_reverse, reverse_over_reverse):
        assert relative(derivative(shuffled), derivative(plain)) < 1e-5, derivative.__name__


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, 1, 1),
        nn.Conv2d(4, 4, 3, 2, 1, groups=2),
        nn.Conv2d(4, 4, 3, 2, 1, dilation=2),
        nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, 2, "valid"),
        nn.Conv2d(4, 4, (3, 2), 2),
        nn.Conv2d(4, 4, 3, (2, 1)),
        nn.Conv2d(4, 4, 3, 2, (1, 0)),
        nn.Conv2d(MOST_CHANNELS + 1, 4, 3, 2),
        nn.ConvTranspose2d(4, 4, 3, 2),
    ],
    ids=repr,
)
def test_other_layers_stay(layer):
    graph = torch.fx.symbolic_trace(nn.Sequential(layer))
    assert not with_shuffled_gradients(graph)
    assert type(graph.get_submodule("0")) is type(layer)


def test_what_a_hook_sees_is_called_as_before():
    layer = nn.Conv2d(3, 4, 3, 2)
    layer.register_forward_hook(lambda module, given, found: found * 2)
    assert not with_shuffled_gradients(torch.fx.symbolic_trace(nn.Sequential(layer)))


def strided_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 40, 3, 2, 1))
    net.extend([nn.ReLU(), nn.Conv2d(40, 8, 3, 2), nn.Flatten(), nn.Linear(8, 5)])
    net[1].running_mean.uniform_(-0.5, 0.5)
    return net.requires_grad_(False).eval()


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("inference", ["eager", "frozen"])
def test_a_copy_with_shuffled_gradients_is_the_same_function(layout, inference):
    net, x = strided_net(), normal(6, 3, 14, 14).sigmoid()
    fast = make_copy(net, CopyPlan(layout, inference=inference, strided="shuffled"), x)
    assert isinstance(fast, FastCopy)
    assert sum(isinstance(part, ShuffledConv2d) for part in fast.modules()) == 2
    assert (fast.inference is not None) == (inference == "frozen")
    with torch.no_grad():
        assert relative(fast(x), net(x)) < 1e-5
    assert relative(gradient(fast, x), gradient(net, x)) < 1e-4
    assert gradient(fast, x).is_contiguous()
    for size in (0, 1, 5):
        assert fast(x[:size].requires_grad_()).shape == (size, 5)


def test_gradients_are_shuffled_in_mixed_precision_too():
    net, x = strided_net(), normal(6, 3, 14, 14).sigmoid()
    fast = make_copy(net, CopyPlan("contiguous", "bfloat16", strided="shuffled"), x)
    kinds = [part.kernels.dtype for part in fast.modules() if isinstance(part, ShuffledConv2d)]
    assert kinds == [torch.float32, torch.bfloat16]
    assert gradient(fast, x).dtype == torch.float32
    assert relative(gradient(fast, x), gradient(net, x)) < 0.3


def test_a_copy_with_shuffled_gradients_is_one_graph_for_compilers():
    net, x = strided_net(), normal(3, 3, 14, 14).sigmoid()
    fast = make_copy(net, CopyPlan("channels-last", strided="shuffled"), x)
    torch._dynamo.reset()  # a function is compiled anew a few times only
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    assert relative(compiled(x), fast(x)) < 1e-5
    assert relative(gradient(compiled, x), gradient(fast, x)) < 1e-4


def test_a_plan_with_shuffled_gradients_is_one_whose_copy_can_be_made():
    net, x = strided_net(), normal(20, 3, 14, 14).sigmoid()
    state = torch.random.get_rng_state()
    plan = plan_copy(net, x)
    assert torch.random.get_rng_state().equal(state)
    assert CopyPlan.of(plan.as_plain()) == plan
    fast = make_copy(net, plan, x)
    replaced = any(isinstance(part, ShuffledConv2d) for part in fast.modules())
    assert replaced == (plan.strided == "shuffled")
