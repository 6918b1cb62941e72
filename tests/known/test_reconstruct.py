"""The search that must also give the image back."""

from __future__ import annotations

import pytest
import torch

from rstbench.errors import BadRequest
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.reconstruct import FeatureHook, Reconstruct, ReconstructionAdversary
from rstbench.tickets.methods.search import Search
from rstbench.training.adversaries import Batch, parse_adversary
from rstbench.training.recipe import recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 2, "batch": 32}


def test_the_loss_by_hand():
    """A decoder that answers 1 for images of 0 adds weight * 1."""
    net = torch.nn.Linear(3, 2)
    features = FeatureHook()
    net.register_forward_pre_hook(features.record)
    decoder = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(decoder.weight)
    torch.nn.init.ones_(decoder.bias)
    x, y = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
    batch = Batch(net, x, y, None, None, torch.nn.functional.cross_entropy)
    (plain,) = parse_adversary("none").losses(batch)
    (more,) = ReconstructionAdversary(parse_adversary("none"), features, decoder, 0.5).losses(batch)
    assert float((more - plain).detach()) == pytest.approx(0.5)


def test_it_finds_another_mask_than_the_plain_search(spec, weights, split, tmp_path):
    plain, _ = edge_popup(Search(spec, weights, "0.3", split, recipe_for(SMALL)))
    recipe = recipe_for({**SMALL, "method": "reconstruct"})
    found, history = Reconstruct()(Search(spec, weights, "0.3", split, recipe))
    assert found.digest != plain.digest
    assert found.buffers.keys() == plain.buffers.keys()  # no trace of the decoder
    fixed, _ = Reconstruct(learnt=False)(Search(spec, weights, "0.3", split, recipe))
    assert fixed.digest != found.digest
    file = tmp_path / ".d"

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reconstruct()(Search(spec, weights, "0.3", split, recipe, on_epoch=stop, resume_file=file))
    again, history_again = Reconstruct()(Search(spec, weights, "0.3", split, recipe, resume_file=file))
    assert (again.digest, history_again) == (found.digest, history)


def test_a_wrong_weight(spec, weights, split):
    with pytest.raises(BadRequest, match="must be positive"):
        Reconstruct(weight=0)(Search(spec, weights, "0.3", split, recipe_for(SMALL)))
