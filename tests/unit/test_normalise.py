"""Normalisation before any model, and the one that suits it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.models.normalise import KNOWN, clearly_better, normalised, right_under
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:10")


def test_normalisation_by_hand():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 4)
    for text, (mean, std) in KNOWN.items():
        channels = len(mean)
        wanted = (x[:, :channels] - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(
            1, -1, 1, 1
        )
        assert torch.allclose(normalised(nn.Identity(), text)(x[:, :channels]), wanted, atol=1e-6)
    own = normalised(nn.Identity(), "0.1+0.2+0.3/0.5+1+2")
    assert torch.allclose(own(x)[:, 2], (x[:, 2] - 0.3) / 2, atol=1e-6)
    assert not list(own.parameters())


@pytest.mark.parametrize("text", ["cifar", "0.5", "0.5/0", "0.5+0.5/0.2+0.2+0.2", "a/b", "0.5/-1"])
def test_wrong_normalisations(text):
    with pytest.raises(BadRequest, match="normalize is one of cifar10, cifar100"):
        normalised(nn.Identity(), text)


def test_any_reference_can_be_normalised(ticket_files, digits):
    plain = load_reference(f"ticket:{ticket_files[0]}")
    entry = load_reference(f"ticket:{ticket_files[0]}[normalize=0.1/0.5]")
    x, _ = digits.at(slice(None))
    assert torch.allclose(entry.module(x), plain.module((x - 0.1) / 0.5), atol=1e-5)
    assert entry.digest != plain.digest
    assert entry.info.name.endswith("[normalize=0.1/0.5]")
    assert load_reference(f"ticket:{ticket_files[0]}[normalize=0.1/0.5]").digest == entry.digest
    with pytest.raises(BadRequest, match="members of a switch"):
        load_reference("switch:" + "+".join(map(str, ticket_files)) + "[normalize=half]")


class Expects(nn.Module):
    """A network that was trained on images normalised to [-1, 1]."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x * 0.5 + 0.5)


def test_a_likely_mistake_is_noticed(split):
    from rstbench.tickets.checkpoint import train
    from rstbench.training.recipe import recipe_for

    recipe = recipe_for({"network": "conv2", "width": 0.1, "epochs": 8, "batch": 16, "adversary": "none"})
    inner = train(NetworkSpec("conv2", (1, 8, 8), 10, 0.1), split, recipe)[0].module()
    x, y = load("digits:test:100").at(slice(None))
    assert clearly_better(right_under(Expects(inner), x, y)) == "half"
    assert clearly_better(right_under(normalised(Expects(inner), "mnist"), x, y)) == "half"
    assert clearly_better(right_under(normalised(Expects(inner), "half"), x, y)) == ""
    assert clearly_better(right_under(inner, x, y)) == ""


def test_a_normalisation_too_many_is_told(data_root):
    entry = load_reference("bundled:autoattack-resnet18[normalize=cifar10]")
    x, y = load("cifar10:test:60", data_root).at(slice(None))
    assert clearly_better(right_under(entry.module, x, y)) == "none"
    with pytest.raises(BadRequest, match="is for 2 channels, images have 3"):
        load_reference("bundled:autoattack-resnet18[normalize=0.5+0.5/1]", load("cifar10:test:2", data_root))


def test_chance_is_no_reason_for_a_flag():
    """A model at chance on a few images may be better under any of four normalisations."""
    torch.manual_seed(0)
    for _ in range(20):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        right = right_under(net, torch.rand(20, 3, 8, 8), torch.randint(0, 10, (20,)))
        assert clearly_better(right) == ""
