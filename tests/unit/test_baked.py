"""Parametrized weights are plain in copies, and stay as they are in the module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from rstbench.models.agreement import AGREE
from rstbench.models.fast_copy import CopyPlan, FastCopy, make_copy


class Masked(nn.Module):
    """A mask that is sorted anew at every use, as search code keeps it."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, weight):
        return weight * (self.scores.abs() >= self.scores.abs().median())


def test_parametrized_weights_are_plain_in_a_copy():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14**2, 10)
    )
    for layer in (net[0], net[4]):
        parametrize.register_parametrization(layer, "weight", Masked(torch.randn(layer.weight.shape)))
    net.requires_grad_(False).eval()
    x, state = torch.rand(6, 3, 16, 16), {key: value.clone() for key, value in net.state_dict().items()}
    fast = make_copy(net, CopyPlan(), x)
    assert isinstance(fast, FastCopy)
    assert not any(parametrize.is_parametrized(part) for part in fast.modules())
    assert float((fast(x) - net(x)).abs().max()) < AGREE * float(net(x).abs().max())
    # The module is what it was, and searches on.
    assert all(parametrize.is_parametrized(net[place]) for place in (0, 4))
    assert all(value.equal(state[key]) for key, value in net.state_dict().items())
    net[0].parametrizations.weight[0].scores.mul_(0)
    assert not net(x).allclose(fast(x))
