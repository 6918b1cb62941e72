"""Weights that torch stores in parts, put together as torch does it."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import utils

from rstbench.errors import BadRequest
from rstbench.models.checkpoints.parametrized import without_parametrizations


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ConvTranspose2d(3, 5, 3), nn.Flatten(), nn.Linear(320, 4))


def in_parts(norm, layers):
    net = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for place in layers:
            norm(net[place])
    net.train()(torch.rand(2, 1, 8, 8))
    return net.eval()


@pytest.mark.parametrize(
    "norm",
    [
        utils.weight_norm,
        lambda layer: utils.weight_norm(layer, dim=None),
        utils.spectral_norm,
        utils.parametrizations.weight_norm,
        utils.parametrizations.spectral_norm,
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_the_weights_that_torch_computes(norm, nested):
    net = in_parts(norm, (0, 1, 3))
    state = {f"a.b.{name}" if nested else name: tensor for name, tensor in net.state_dict().items()}
    plain, x = network(), torch.rand(2, 1, 8, 8)
    plain.load_state_dict(
        {name.removeprefix("a.b."): tensor for name, tensor in without_parametrizations(state).items()}
    )
    with torch.no_grad():
        assert torch.allclose(plain(x), net(x), atol=1e-6)


def test_what_torch_alone_can_put_together():
    net = copy.deepcopy(network())
    utils.parametrizations.orthogonal(net[3])
    with pytest.raises(BadRequest, match=r"3.weight is stored in parts \(original, 0.base\)"):
        without_parametrizations(net.state_dict())
    for g, v in (((2, 3), (6, 1, 3, 3)), ((6, 3, 1, 1), (6, 3, 3, 3))):
        with pytest.raises(BadRequest, match=r"0.weight is stored in parts \(_g, _v\)"):
            without_parametrizations({"0.weight_g": torch.ones(g), "0.weight_v": torch.ones(v)})
    with pytest.raises(BadRequest, match=r"0.weight is stored in parts \(_orig, _u\)"):
        without_parametrizations({"0.weight_orig": torch.ones(3, 2), "0.weight_u": torch.ones(3)})
    with pytest.raises(BadRequest, match=r"0.weight is there twice"):
        without_parametrizations(
            {"0.weight": torch.ones(3, 2), "0.weight_g": torch.ones(3, 1), "0.weight_v": torch.ones(3, 2)}
        )


def test_names_that_only_end_alike():
    state = {"a.weight_g": torch.ones(2), "b.value_v": torch.ones(2), "c.weight_orig": torch.ones(2)}
    assert without_parametrizations(state) == state
