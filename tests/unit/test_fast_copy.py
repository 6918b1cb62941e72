"""Fast copies: what they may change, what they must not, and what has none."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.fx
import torchvision
from torch import nn
from torch.nn import functional

from rstbench.models.agreement import AGREE, AGREE_COARSE, answers
from rstbench.models.fast_copy import CopyPlan, FastCopy, ForwardCopy, crafting_copy, make_copy, plan_copy
from rstbench.models.identity import module_digest
from rstbench.networks.network import NetworkSpec, build
from rstbench.networks.subnormals import TINY

PLANS = [
    CopyPlan(layout, inference=inference, filters=filters)
    for layout in ("contiguous", "channels-last")
    for inference in ("eager", "frozen")
    for filters in ("all", "live")
]


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def network(name, shape=(3, 16, 16)):
    """One of our own with norms as after training."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name, shape, 10, 0.2, "affine")).train()
    for key, tensor in net.named_parameters():
        if key.endswith("bias"):
            tensor.data.uniform_(-0.5, 0.5)
    for _ in range(20):
        net(images(16, *shape))
    return net.requires_grad_(False).eval()


def ticket_like():
    """A network whose first filters are masked, their statistics decayed."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 16, 10, bias=False),
    )
    with torch.no_grad():
        net[0].weight[:5] = 0
        net[1].running_mean[:5] = net[1].running_var[:5] = 1e-42
        net[3].weight[2, 6, 0, 0] = 1e-40
    return net.requires_grad_(False).eval()


class Functional(nn.Module):
    """As many published networks: the norm is a call, and so is all else."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.body = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 10)
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        norm = self.norm
        x = functional.batch_norm(
            self.stem(x),
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            self.training,
            0.1,
            norm.eps,
        )
        x = functional.relu(x, inplace=True)
        x = functional.max_pool2d(self.body(x).relu(), 2)
        x = functional.dropout(functional.adaptive_avg_pool2d(x, 1).view(x.size(0), 8), 0.5, self.training)
        return self.head(x)


def functional_net():
    return Functional().requires_grad_(False).eval()


def library_net():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10).requires_grad_(False).eval()


CASES = {
    "ticket": ticket_like,
    "functional": functional_net,
    "library": library_net,
    "resnet18": lambda: network("resnet18"),
    "preactresnet18": lambda: network("preactresnet18"),
    "conv4": lambda: network("conv4"),
}


def case(name, count):
    """A network and images for it."""
    return CASES[name](), images(count, *((1, 8, 8) if name == "ticket" else (3, 16, 16)))


def relative(one, other):
    return float((one - other).abs().max() / other.abs().max())


def gradient(net, x):
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(net(x).square().sum(), x)[0]


def subnormal(module):
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    return sum(int(((t != 0) & (t.abs() < TINY)).sum()) for t in tensors)


@pytest.mark.parametrize("make", [crafting_copy, *(lambda m, x, p=p: make_copy(m, p, x) for p in PLANS)])
def test_no_copy_has_subnormal_numbers_and_the_judge_keeps_its_own(make):
    net, x = ticket_like(), images(6, 1, 8, 8)
    assert subnormal(net) == 11
    digest = module_digest(net)[0]
    fast = make(net, x)
    assert isinstance(fast, FastCopy)
    assert subnormal(fast) == 0
    assert relative(fast(x), net(x)) <= AGREE
    assert module_digest(net)[0] == digest
    assert subnormal(net) == 11


@pytest.mark.parametrize(
    ("name", "plan"),
    [(name, plan) for name in CASES for plan in (PLANS if name in ("ticket", "functional") else PLANS[2::5])],
)
def test_a_copy_is_the_same_function_in_every_batch_size(name, plan):
    net, x = case(name, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # those of TorchScript too: no user wants them
        fast = make_copy(net, plan, x)
    assert isinstance(fast, FastCopy)
    assert (fast.inference is not None) == (plan.inference == "frozen")
    for size in (9, 4, 1, 7, 2, 0):
        with torch.no_grad():
            assert fast(x[:size]).shape == (size, 10)
        if size:
            with torch.no_grad():
                assert relative(fast(x[:size].requires_grad_()), net(x[:size])) <= AGREE
            found, wanted = gradient(fast, x[:size]), gradient(net, x[:size])
            assert found.is_contiguous()
            assert found.dtype == torch.float32
            assert relative(found, wanted) < 1e-2
    moved = torch.func.jvp(fast, (x,), (torch.ones_like(x),))[1]
    assert relative(moved, torch.func.jvp(net, (x,), (torch.ones_like(x),))[1]) < 1e-2


@pytest.mark.parametrize("name", ["functional", "library", "conv4"])
def test_norms_fold_in_modules_of_any_origin(name):
    net, x = case(name, 4)
    fast = make_copy(net, CopyPlan(), x)
    assert isinstance(fast, FastCopy)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
    assert functional.batch_norm not in [node.target for node in fast.net.graph.nodes]


def test_a_plan_is_one_whose_copy_can_be_made():
    for net, x in (case("ticket", 20), case("library", 2)):
        state = torch.random.get_rng_state()
        plan = plan_copy(net, x)
        assert torch.random.get_rng_state().equal(state)
        assert CopyPlan.of(plan.as_plain()) == plan
        assert plan.layout in ("none", "contiguous", "channels-last")
        assert plan.precision == "float32" or plan.layout != "none"
        own = plan.layout == "none" and plan.inference == "eager"
        assert own == (plan.note == "its copies are no faster")
        assert (make_copy(net, plan, x) is net) == own


def test_gradients_may_come_from_the_module_itself():
    net, x = case("library", 4)
    fast = make_copy(net, CopyPlan("none", inference="frozen"), x)
    assert isinstance(fast, ForwardCopy)
    with torch.no_grad():
        assert relative(fast(x), net(x)) < AGREE
    images = x.clone().requires_grad_()
    assert fast(images).equal(net(x))


@pytest.mark.parametrize("name", ["ticket", "functional"])
def test_a_copy_is_one_graph_for_compilers(name):
    net, x = case(name, 3)
    fast = make_copy(net, CopyPlan("channels-last", inference="frozen"), x)
    torch._dynamo.reset()  # a function is compiled anew a few times only
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    assert relative(compiled(x), fast(x)) <= AGREE
    assert relative(gradient(compiled, x), gradient(fast, x)) < 1e-3


def test_dead_filters_are_those_that_give_zeros_or_are_not_read():
    """By hand: of four filters one is masked, one masked and below zero, one unread, one lives."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.MaxPool2d(2), nn.Flatten())
    net.append(nn.Linear(12, 2))
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias[:] = torch.tensor([0.0, -1.0, 0.5, 0.5])
        net[2].weight[:, 2] = 0
        net[2].weight[1] = 0  # gives 0.25, so it stays
        net[2].bias[1] = 0.25
    net, x = net.requires_grad_(False).eval(), images(5, 1, 8, 8)
    fast = make_copy(net, CopyPlan(filters="live"), x)
    assert [tuple(part.weight.shape[:2]) for part in fast.modules() if hasattr(part, "weight")] == [
        (1, 1), (3, 1), (2, 12)
    ]  # fmt: skip
    assert relative(fast(x), net(x)) <= 1e-6
    net[0].bias[1] = 1.0  # a constant map is no zero
    net[2].weight[:, 1] = 0.5
    fast = make_copy(net, CopyPlan(filters="live"), x)
    assert fast.net.get_submodule("0").out_channels == 2
    assert relative(fast(x), net(x)) <= 1e-6


def test_what_several_layers_read_keeps_its_filters():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, 3)
            for layer in (self.a, self.b):
                layer.weight.data[:2] = 0
                layer.bias.data[:2] = 0

        def forward(self, x):
            x = self.a(x).relu()
            return self.fc((x + self.c(self.b(x).relu())).amax((2, 3)))

    net, x = Residual().requires_grad_(False).eval(), images(5, 1, 8, 8)
    fast = make_copy(net, CopyPlan(filters="live"), x)
    assert [layer.out_channels for layer in (fast.net.a, fast.net.b, fast.net.c)] == [4, 2, 4]
    assert relative(fast(x), net(x)) <= 1e-6


@pytest.mark.parametrize("inference", ["eager", "frozen"])
@pytest.mark.parametrize("name", ["library", "resnet18", "conv4"])
def test_mixed_precision_keeps_the_ends_in_float32(name, inference):
    net, x = case(name, 6)
    fast = make_copy(net, CopyPlan("channels-last", "bfloat16", inference), x)
    assert isinstance(fast, FastCopy)
    layers = [part for part in fast.net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert layers[0].weight.dtype == layers[-1].weight.dtype == torch.float32
    assert all(layer.weight.dtype == torch.bfloat16 for layer in layers[1:-1])
    with torch.no_grad():
        assert fast(x).dtype == torch.float32
        assert 0 < relative(fast(x), net(x)) <= AGREE_COARSE
    assert gradient(fast, x).dtype == torch.float32
    assert gradient(fast, x).is_contiguous()
    assert all(part.dtype == torch.float32 for part in net.state_dict().values() if part.is_floating_point())


def test_answers_hold_other_pixels_and_other_sizes():
    for size in (1, 2, 9):
        x = images(size, 1, 8, 8)
        batches = answers(ticket_like(), x).batches
        assert batches[0].equal(x)
        assert len({len(batch) for batch in batches}) >= 2
        assert not batches[1].equal(x[: len(batches[1])])


def test_a_copy_shares_nothing_with_its_module():
    net, x = ticket_like(), images(4, 1, 8, 8)
    fast = make_copy(net, CopyPlan(inference="frozen"), x)
    before = copy.deepcopy(fast(x))
    for parameter in net.parameters():
        parameter.zero_()
    assert fast(x).equal(before)
