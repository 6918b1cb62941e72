"""What lies in a checkpoint beside a network: the answers of the code that wrote it, or a refusal."""

from __future__ import annotations

import argparse

import pytest
import torch

from rstbench.errors import BadRequest
from rstbench.models.wrapper import load_reference
from tests.known.stored_nets import BITS, NET, STATE, WEIGHTS, agree, made


@pytest.fixture
def entry(tmp_path):
    """Saves a file's content and reads it as the network."""

    def read(content, options="", arch="arch=resnet18,width=0.125,norm=affine"):
        torch.save(content, tmp_path / "c.pt")
        text = f"weights:{tmp_path}/c.pt[{arch},classes=10,shape=1x8x8{options}]"
        return load_reference(text)

    return read


SCORES = {name: torch.randn(STATE[name].shape) for name in WEIGHTS}


def with_weights(change):
    """The network with other weights: change: (name, weight) to weight."""
    net = made()
    net.load_state_dict({n: change(n, t) if n in WEIGHTS else t for n, t in STATE.items()})
    return net


@pytest.mark.parametrize(
    "name", ["pruned", "frozen", "signs", "is_zero", "grad_mask", "zero_mask", "kept", "mask_inverse"]
)
def test_zeros_and_ones_of_another_name_are_asked_about(entry, name):
    content = {"state_dict": STATE, name: BITS}
    with pytest.raises(BadRequest, match=rf"holds {name} beside state_dict.*call it masks where its ones"):
        entry(content)
    found = entry(content, ",key=state_dict")
    agree(found, NET)
    assert found.notes == (f"{name} beside state_dict left out, as [key=state_dict] says",)


@pytest.mark.parametrize("name", ["mask", "masks", "weight_mask"])
def test_masks_are_applied_and_told(entry, name):
    found = entry({"state_dict": STATE, name: BITS})
    agree(found, with_weights(lambda name, weight: weight * BITS[name]))
    share = sum(int(b.sum()) for b in BITS.values()) / sum(b.numel() for b in BITS.values())
    assert found.notes == (f"{name} beside the network: weights are 0 where it is 0, {share:.1%} are kept",)


def largest(score, fraction):
    """A mask of the largest scores by size, all but int((1 - fraction) n) of them."""
    order = score.abs().flatten().sort().indices
    mask = torch.ones(score.numel())
    mask[order[: int((1 - fraction) * len(order))]] = 0
    return mask.view_as(score)


@pytest.mark.parametrize("kind", ["scores", "popup_scores"])
@pytest.mark.parametrize("options", ["", ",key=state_dict"])
def test_scores_beside_a_network_are_no_network(entry, kind, options):
    by_layer = {name.replace(".weight", f".{kind}"): score for name, score in SCORES.items()}
    for scores in (SCORES, by_layer):
        content = {"state_dict": STATE, kind: scores}
        with pytest.raises(BadRequest, match="not the kept fraction"):
            entry(content, options)
        found = entry(content, f",remaining=0.3{options}")
        agree(found, with_weights(lambda name, weight: weight * largest(SCORES[name], 0.3)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"scores": {"elsewhere": torch.ones(2, 2)}}, "scores whose weights cannot be told"),
        ({"scores": SCORES | {"linear.bias": torch.ones(10)}}, "scores whose weights cannot be told"),
        ({"mask_scores": SCORES}, r"\[scores=signed\] where the largest are kept"),
        ({"importance": SCORES}, "holds importance beside state_dict"),
    ],
)
def test_what_cannot_be_told_of_matrices_on_the_weights(entry, more, message):
    with pytest.raises(BadRequest, match=message):
        entry({"state_dict": STATE, **more})


@pytest.mark.parametrize(
    ("name", "flat"),
    [("log_scale", True), ("step_size", False), ("acc_weight", True), ("best_acc", False), ("rng", True)],
)
def test_no_tensor_of_a_state_dict_is_a_record(entry, name, flat):
    state = {**STATE, name: torch.tensor(2.0) if flat else torch.ones(1)}
    content = state if flat else {"state_dict": state}
    with pytest.raises(BadRequest, match=rf"left over: {name}; .*\[without={name}\]"):
        entry(content)
    agree(entry(content, f",without={name}"), NET)


@pytest.mark.parametrize("value", [torch.tensor(2.0), torch.ones(10)])
@pytest.mark.parametrize("name", ["log_prior", "log_temperature", "lr_mult", "opt_scale"])
def test_learnt_tensors_beside_a_state_dict_are_asked_about(entry, name, value):
    with pytest.raises(BadRequest, match=f"holds {name} beside state_dict"):
        entry({"state_dict": STATE, name: value})


SAYS = {"mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"normalization": SAYS}, "normalization.mean and normalization.std"),
        ({"hyper_parameters": SAYS}, "hyper_parameters.mean"),
        ({"args": argparse.Namespace(lr=0.1, data_mean=(0.5,), data_std=(0.25,))}, "args.data_mean"),
        ({"scaler": {"mean": torch.tensor([0.5]), "std": torch.tensor([0.25])}}, "scaler.mean"),
        ({"config": {"data": {"transform": SAYS}}}, "config.data.transform.mean"),
        ({"config": [{"name": "normalize", "means": [0.5], "stds": [0.25]}]}, "config.0.means"),
        ({"args": {"mean": "0.5", "std": "(0.25)"}}, "args.mean"),
    ],
)
def test_a_normalisation_in_the_settings_is_not_lost(entry, more, place):
    content = {"state_dict": STATE, "epoch": 3, **more}
    for options in ("", ",key=state_dict"):
        with pytest.raises(BadRequest, match=rf"normalises by its {place}.*add \[normalize=0.5/0.25\]"):
            entry(content, options)
        agree(entry(content, f",normalize=0.5/0.25{options}"), NET, lambda x: (x - 0.5) / 0.25)


def test_settings_that_say_nothing(entry):
    """timm's arguments hold None, results a mean of losses."""
    more = {"args": argparse.Namespace(mean=None, std=None), "metrics": {"loss_mean": 0.5, "loss_std": 0.1}}
    agree(entry({"state_dict": STATE, **more}), NET)
    more = {"scores": {"val": torch.tensor(0.9)}, "best_scores": [91.0]}
    agree(entry({"state_dict": STATE, **more}), NET)
    for value in ({"mean": [0.5], "var": [0.0625]}, ([0.5], [0.25])):
        with pytest.raises(BadRequest, match="holds normalization beside state_dict"):
            entry({"state_dict": STATE, "normalization": value})


def test_means_of_bytes(entry):
    content = {"state_dict": STATE, "pixel_mean": [127.5], "pixel_std": [63.75]}
    with pytest.raises(BadRequest, match=r"add \[normalize=0.5/0.25\] where its code takes pixels 0..255, "
                                         r"\[normalize=127.5/63.75\] where it takes 0..1"):  # fmt: skip
        entry(content)
    agree(entry(content, ",normalize=0.5/0.25"), NET, lambda x: (255 * x - 127.5) / 63.75)
    agree(entry(content, ",normalize=127.5/63.75"), NET, lambda x: (x - 127.5) / 63.75)
    with pytest.raises(BadRequest, match="not by mnist"):
        entry(content, ",normalize=mnist")


@pytest.mark.parametrize(
    "pair", [("mean", "inv_std"), ("sub", "div"), ("mean", "var"), ("log_mean", "log_std"), ("mean",)]
)
def test_other_numbers_before_a_network_are_not_made_a_normalisation(entry, pair):
    content = {f"net.{name}": tensor for name, tensor in STATE.items()}
    content |= {name: torch.tensor([0.5]) for name in pair}
    with pytest.raises(BadRequest, match=r"where the network does not use that, add \[prefix=net.\]; where"):
        entry(content)


def test_one_mean_for_each_pixel_is_not_printed(entry):
    pair = {"data_mean": torch.rand(1, 1, 8, 8), "data_std": torch.rand(1, 1, 8, 8)}
    with pytest.raises(BadRequest, match="no option says 64 values") as refusal:
        entry({"state_dict": STATE, **pair})
    assert len(str(refusal.value)) < 500
