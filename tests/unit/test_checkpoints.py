"""What lies in checkpoints beside the weights: used, known to take no part, or refused by its name."""

from __future__ import annotations

import argparse
import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build

SPEC = NetworkSpec("conv2", (1, 8, 8), 10, 0.1)
LAST = "14.bias"


def network(seed):
    """A narrow conv2 whose norm statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    net = build(SPEC).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
    return net


NET, OTHER = network(0), network(1)
STATE, AVERAGE = NET.state_dict(), OTHER.state_dict()
WEIGHTS = [name for name, tensor in STATE.items() if tensor.dim() > 1]
MASKS = {name: (torch.rand(STATE[name].shape, generator=torch.Generator().manual_seed(0)) < 0.3).float()
         for name in WEIGHTS}  # fmt: skip


def under(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


def masked():
    net = copy.deepcopy(NET)
    for name, mask in MASKS.items():
        net.get_parameter(name).data *= mask
    return net


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:20")


@pytest.fixture
def entry(tmp_path, digits):
    """Saves a file's content and reads it as conv2."""

    def read(content, options=""):
        torch.save(content, tmp_path / "c.pt")
        return load_reference(f"weights:{tmp_path}/c.pt[arch=conv2,width=0.1{options}]", digits)

    return read


def agree(entry, net, digits):
    x, _ = digits.at(slice(None))
    with torch.no_grad():
        assert torch.allclose(entry.module(x), net(x), atol=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        {"n_averaged": torch.tensor(3), **under("module.")},  # torch.optim.swa_utils.AveragedModel
        {**STATE, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},  # thop
        {**STATE, "epoch": 3, "arch": "conv2", "best_acc": 50.0},
        {"state_dict": STATE, "best_acc": torch.tensor(50.0), "scaler": {"scale": 65536.0}},
        {
            "state_dict": STATE,
            "args": argparse.Namespace(lr=1),
            "best": np.float64(2),
            "epoch": np.int64(3),
            "optimizer": torch.optim.SGD(NET.parameters(), 0.1).state_dict(),
        },
        {"state_dict": under("model."), "criterion": {"weight": torch.ones(10)}, "loops": {"step": 1}},
        under("module._orig_mod.module."),
        {name: tensor.to_sparse() if tensor.dim() > 1 else tensor for name, tensor in STATE.items()},
        {name: tensor.double() for name, tensor in STATE.items()},
        {"net": STATE, "ema": dict(STATE)},
        {
            **under("module.model."),
            **under("module.attacker.model."),
            "module.normalizer.new_mean": torch.zeros(1, 1, 1),
            "module.normalizer.new_std": torch.ones(1, 1, 1),
        },
    ],
)
def test_what_takes_no_part(entry, digits, content):
    agree(entry(content), NET, digits)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"0.scale": torch.tensor(2.0)},
            r"the file also has 0.scale; choose another arch, or load it in a file",
        ),
        (
            {"temperature": 2.0},
            r"in the file is the whole conv2; left over: temperature; .*\[without=temperature",
        ),
        ({"0.clip": np.ones(3)}, "also has 0.clip"),
        ({"clip": [1.0, 2.0]}, "left over: clip"),
        ({"block.alpha": torch.tensor(0.5)}, r"left over: block.alpha; .*\[without=block\]"),
        ({"act": "tanh"}, "act among its tensors, which is none"),
        ({"0.mask_real": torch.rand(STATE["0.weight"].shape)}, "also has 0.mask_real"),
        ({"17.lora_A": torch.ones(2, 2)}, "left over: 17.lora_A"),
        ({"77.weight_mask": torch.ones(2, 2)}, "left over: 77.weight_mask"),
        (
            {name.replace("weight", "bias"): torch.ones(len(STATE[name])) for name in WEIGHTS},
            "also has 0.bias",
        ),
        (
            {"0.weight_mask": torch.rand(STATE["0.weight"].shape)},
            "zeros and ones, .* other values",
        ),
        ({"0.weight_mask": torch.ones(6, 1, 1, 1)}, r"of its shape, .* has shape \(6, 1, 1, 1\)"),
        ({"0.weight_g": torch.ones(6, 1, 1, 1), "0.weight_v": torch.ones(6, 1, 3, 3)}, "is there twice"),
        ({"0.weight": STATE["0.weight"].to(torch.int8)}, r"0.weight holds whole numbers \(torch.int8\)"),
        ({"0.weight": STATE["0.weight"].to(torch.complex64)}, "0.weight is complex"),
        ({"0.weight": STATE["0.weight"].to("meta")}, "0.weight is a tensor without values"),
        ({"masks": list(MASKS.values())}, r"left over: masks\[0\]"),
    ],
)
def test_what_may_take_part_is_refused_by_its_name(entry, more, message):
    with pytest.raises(BadRequest, match=message):
        entry({**STATE, **more})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"temperature": torch.tensor(2.0)}, r"temperature beside state_dict, .* add \[key=state_dict\]"),
        ({"logit_scale": 2.0}, "holds logit_scale beside state_dict"),
        ({"basis": torch.rand(3, 3)}, r"holds basis beside state_dict, .* add \[key=state_dict\]"),
        ({"gate": {"weight": torch.ones(3)}}, "holds gate beside state_dict"),
        ({"masks": list(MASKS.values())}, "masks whose weights cannot be told"),
        ({"masks": {"elsewhere": MASKS["0.weight"]}}, "masks whose weights cannot be told"),
        (
            {"mean": torch.tensor([0.5]), "std": [0.25]},
            r"normalises by its mean and std: add \[normalize=0.5/0.25",
        ),
    ],
)
def test_what_lies_beside_the_state_dict(entry, more, message):
    with pytest.raises(BadRequest, match=message):
        entry({"state_dict": STATE, **more})


@pytest.mark.parametrize(
    "content",
    [
        {**STATE, **{f"{name}_mask": mask for name, mask in MASKS.items()}},
        {**STATE, **{name.replace("weight", "mask"): mask.bool() for name, mask in MASKS.items()}},
        {**STATE, **{f"{name}.mask": mask.int() for name, mask in MASKS.items()}},
        {**under("module."), **{f"masks.module.{name}": mask for name, mask in MASKS.items()}},
        {"state_dict": STATE, "masks": MASKS},
        {
            "state_dict": under("module."),
            "mask": {name.removesuffix(".weight"): m for name, m in MASKS.items()},
        },
        {"state_dict": STATE, "weight_mask": MASKS},
    ],
)
def test_masks_beside_live_weights_are_applied(entry, digits, content):
    found = entry(content)
    agree(found, masked(), digits)
    assert found.info.kept_weights == sum(int(mask.sum()) for mask in MASKS.values())
    assert found.info.total_weights == sum(mask.numel() for mask in MASKS.values())


def test_a_mask_says_what_is_kept_even_of_zeros(entry):
    state = {**STATE, "0.weight": torch.zeros_like(STATE["0.weight"])}
    found = entry({**state, **{f"{name}_mask": torch.ones_like(mask) for name, mask in MASKS.items()}})
    assert found.info.kept_weights == found.info.total_weights


def test_masks_stay_with_a_prefix(entry, digits):
    state = {**under("model."), **{f"masks.model.{name}": mask for name, mask in MASKS.items()}}
    found = entry({**state, "criterion.weight": torch.ones(10)}, ",prefix=model.")
    agree(found, masked(), digits)


@pytest.mark.parametrize(
    ("content", "message", "option"),
    [
        ({"net": STATE, "ema": AVERAGE}, r"2 networks: net, ema; name one, \[key=net\]", "key=net"),
        (
            {"state_dict": AVERAGE, "model_best": {"state_dict": STATE}},
            "2 networks: state_dict, model_best.state_dict",
            "key=model_best.state_dict",
        ),
        ({"net": STATE, "optimizer_net": AVERAGE}, "2 networks: net, optimizer_net", "key=net"),
        ({"models": [STATE, AVERAGE]}, "models.0, models.1", "key=models.0"),
        ({**STATE, "ema": AVERAGE}, "being what is in no dictionary of its own", "key=."),
        (
            {**under("student."), **under("teacher.", AVERAGE)},
            "under 'student.' and 'teacher.'",
            "prefix=student.",
        ),
        ({**STATE, **under("ema.", AVERAGE)}, r"\[prefix=ema.\] or \[without=ema\]", "without=ema"),
        (
            {"state_dict": {**under("model."), "criterion.weight": torch.ones(10)}},
            r"under 'model.' is the whole conv2; left over: criterion.weight; .*add \[prefix=model.\]",
            "prefix=model.",
        ),
        ({**STATE, "sub_block1.weight": torch.ones(3, 3)}, r"\[without=sub_block1\]", "without=sub_block1"),
        ({"state_dict": STATE, "temperature": torch.ones(1)}, "temperature beside", "key=state_dict"),
    ],
)
def test_what_is_unclear_is_asked_for(entry, digits, content, message, option):
    with pytest.raises(BadRequest, match=message):
        entry(content)
    found = entry(content, f",{option}")
    agree(found, NET, digits)
    assert option in found.info.name


def test_wrong_names_within_a_file(entry):
    with pytest.raises(BadRequest, match="no network under 'emo'; there are: net, ema"):
        entry({"net": STATE, "ema": AVERAGE}, ",key=emo")
    with pytest.raises(BadRequest, match=r"no tensor of the file begins with 'net\.'"):
        entry(STATE, ",prefix=net.")
    with pytest.raises(BadRequest, match="no tensor of the file is named 'net' or begins with it"):
        entry(STATE, ",without=net")


@pytest.mark.parametrize("prefix", ["model.", "module.model._orig_mod.", "anything.of.theirs."])
def test_prefixes_of_safetensors(tmp_path, digits, prefix):
    save_file(under(prefix), tmp_path / "p.safetensors")
    agree(load_reference(f"weights:{tmp_path}/p.safetensors[arch=conv2,width=0.1]", digits), NET, digits)
    (tmp_path / "p.bin").write_bytes(save(under(prefix)))  # told by content, not by name
    agree(load_reference(f"weights:{tmp_path}/p.bin[arch=conv2,width=0.1]", digits), NET, digits)


def test_normalisers_are_restated_or_asked_for(entry, digits):
    content = {**under("1."), "0.mean": torch.tensor([0.5]), "0.std": torch.tensor([0.25])}
    for options in ("", ",prefix=1.", ",normalize=mnist"):
        with pytest.raises(BadRequest, match=r"its 0.mean and 0.std.*add \[normalize=0.5/0.25\]"):
            entry(content, options)
    x, _ = digits.at(slice(None))
    found = entry(content, ",normalize=0.5/0.25")
    assert torch.allclose(found.module(x), NET((x - 0.5) / 0.25), atol=1e-5)
    assert entry(STATE, ",normalize=0.5/0.25").digest == found.digest


def test_a_last_bias_is_taken_and_told(entry, digits):
    x, _ = digits.at(slice(None))
    bias = torch.arange(10.0)
    for options in ("", ",bias=last"):
        found = entry({**STATE, LAST: bias}, options)
        assert torch.allclose(found.module(x), NET(x) + bias, atol=1e-5)
        assert found.info.name.endswith(",bias=last]")
        assert found.info.network == "conv2[width=0.1,bias=last]"
    half = {**STATE, LAST: bias, f"{LAST}_mask": (bias < 5).float()}
    assert torch.allclose(entry(half).module(x), NET(x) + bias * (bias < 5), atol=1e-5)
    for content, options, message in (
        ({**STATE, LAST: bias}, ",bias=none", r"also has 14.bias; .* or \[bias=last\]: with that"),
        (STATE, ",bias=last", r"lacks 14.bias; .* or \[bias=none\]: with that"),
        (STATE, ",bias=first", "bias is none or last"),
    ):
        with pytest.raises(BadRequest, match=message):
            entry(content, options)


def test_the_options_that_would_fit_are_named(entry):
    state = build(NetworkSpec("conv2", (1, 8, 8), 7, 0.1, "affine")).state_dict()
    with pytest.raises(
        BadRequest, match=r"\[norm=affine,classes=7\]: with that the file holds the whole conv2"
    ):
        entry(state)


def test_a_ticket_has_no_biases(entry):
    state = {**STATE, LAST: torch.ones(10)}
    state |= {name.replace("weight", "scores"): torch.rand(STATE[name].shape) for name in WEIGHTS}
    with pytest.raises(BadRequest, match=r"no biases, .* leave out recipe to measure it as it is"):
        entry(state, ",remaining=0.3,recipe=digits,data=digits,init=kaiming_normal")
