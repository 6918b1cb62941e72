"""Modules that a copy would change: they are crafted against as they are, and the reason is told."""

from __future__ import annotations

import pytest
import torch
import torch.fx
from torch import nn

from rstbench.models.fast_copy import CopyPlan, FastCopy, make_copy, plan_copy


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().flatten(1))


class BranchesOnValues(Base):
    def forward(self, x):
        return super().forward(x if x.sum() > 1e9 else 1 - x)


class BranchesOnBatchSize(Base):
    def forward(self, x):
        return super().forward(x if len(x) > 3 else 1 - x)


class BranchesOnShape(Base):
    def forward(self, x):
        return super().forward(x if x.shape[0] > 3 else 1 - x)


class Random(Base):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.rand_like(x))


class RandomConstant(Base):
    """Tracing would draw its noise once and for all."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.rand(1, 1, 8, 8))


class Counting(Base):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls % 2)


class BufferCounting(Base):
    """The first answers of a copy would be the module's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return super().forward(x) * self.calls


class WritesIntoItsInput(Base):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


class Rounded(torch.autograd.Function):
    """Its gradient passes straight through, which tracing loses."""

    @staticmethod
    def forward(ctx, x):
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class StraightThrough(Base):
    def forward(self, x):
        return super().forward(Rounded.apply(x))


class WithoutGradient(Base):
    """Tracing loses the block too."""

    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class OneSizeOnly(Base):
    def forward(self, x):
        return super().forward(x).view(8, 10)


class SeveralOutputs(Base):
    def forward(self, x):
        return super().forward(x), x


class NotFinite(Base):
    def forward(self, x):
        return super().forward(x) / 0


class Failing(Base):
    def forward(self, x):
        raise KeyError("weights")


REFUSED = {
    BranchesOnValues: "cannot be traced",
    BranchesOnBatchSize: "cannot be traced",
    BranchesOnShape: "cannot be traced",
    Random: "change from call to call",
    RandomConstant: "change from call to call",
    Counting: "change from call to call",
    BufferCounting: "change from call to call",
    WritesIntoItsInput: "writes into its input",
    StraightThrough: "differ|cannot be traced",
    WithoutGradient: "differ",
    OneSizeOnly: "fails on 4 images",
    SeveralOutputs: "no logits",
    NotFinite: "not finite",
    Failing: "weights",
}


def frozen(module):
    return module.requires_grad_(False).eval()


def images(count=8):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_has_no_copy_is_used_itself_and_the_reason_is_told(kind):
    net, x = frozen(kind()), images()
    given = x.clone()
    plan = plan_copy(net, x)
    assert plan.layout == "none"
    assert torch.tensor([word in plan.note for word in REFUSED[kind].split("|")]).any(), plan.note
    assert len(plan.note) < 150
    assert "\n" not in plan.note
    assert make_copy(net, plan, x) is net
    for inference in ("eager", "frozen"):  # also by a plan that was made elsewhere
        assert make_copy(net, CopyPlan(inference=inference), x) is net
    assert x.equal(given)


@torch.fx.wrap
def inverted_in_large_batches(x):
    """Stays a call when traced by torch.fx; TorchScript would trace one of its branches."""
    return 1 - x if x.shape[0] > 3 else x


class BranchesInACall(Base):
    def forward(self, x):
        return super().forward(inverted_in_large_batches(x))


def test_what_branches_on_sizes_in_a_call_has_no_frozen_form():
    net, x = frozen(BranchesInACall()), images()
    fast = make_copy(net, CopyPlan(inference="frozen"), x)
    assert isinstance(fast, FastCopy)
    assert fast.inference is None
    for size in (8, 2):
        assert torch.allclose(fast(x[:size]), net(x[:size]), atol=1e-5)


class ReturnsAView(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]


class Caching(Base):
    """Keeps a buffer that its first call made."""

    def __init__(self):
        super().__init__()
        self.scale = None

    def forward(self, x):
        if self.scale is None:
            self.scale = self.fc.weight.abs().sum()
        return super().forward(x) / self.scale


class ByMode(Base):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x) if self.training else x)


@pytest.mark.parametrize("kind", [ReturnsAView, Caching, ByMode])
@pytest.mark.parametrize("inference", ["eager", "frozen"])
def test_harmless_oddities_are_copied(kind, inference):
    net, x = frozen(kind()), images()
    given = x.clone()
    fast = make_copy(net, CopyPlan(inference=inference), x)
    assert isinstance(fast, FastCopy)
    for batch in (x, x[:1], 1 - x[:3]):
        with torch.no_grad():
            assert torch.allclose(fast(batch), net(batch), atol=1e-6)
    assert x.equal(given)
    image = x.clone().requires_grad_(True)
    assert torch.autograd.grad(fast(image).sum(), image)[0].isfinite().all()


def test_a_plan_for_another_model_falls_back_to_the_module():
    """A plan says how to copy, and the answers decide whether the copy is used."""

    class Broken(Base):
        def __deepcopy__(self, memo):
            other = Base()
            other.conv.weight.data += 0.01
            return frozen(other)

    net, x = frozen(Broken()), images()
    assert make_copy(net, CopyPlan(), x) is net
    assert plan_copy(net, x).note == "the logits or gradients of its copy differ"
