"""Checkpoints that store a network in parts, behind wrappers, or another network than the named one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

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


SCALES = {f"{name}_scale": torch.ones(1) for name in WEIGHTS}


@pytest.mark.parametrize(
    ("sizes", "arch", "told"),
    [
        ({"depths": (3, 4, 6, 3)}, "resnet18,width=0.125,norm=affine", "arch=resnet34,bias=last"),
        ({}, "resnet34,width=0.125,norm=affine", "arch=resnet18,bias=last"),
        ({"wide": 16}, "resnet18,width=0.125,norm=affine", "width=0.25,bias=last"),
        ({}, "resnet18", "width=0.125,norm=affine,bias=last"),
        ({}, "wrn-28-10,norm=none", "arch=resnet18,width=0.125,norm=affine,bias=last"),
    ],
)
def test_the_network_that_holds_the_file_is_named(entry, sizes, arch, told):
    net = made(**sizes)
    with pytest.raises(BadRequest, match=rf"choose another arch, or \[{told}\]") as refusal:
        entry(net.state_dict(), arch=f"arch={arch}")
    assert "without=" not in str(refusal.value)
    options = dict(option.split("=") for option in f"arch={arch},{told}".split(","))
    agree(entry(net.state_dict(), arch=",".join(f"{n}={v}" for n, v in options.items())), net)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"conv1.binary_mask": BITS["conv1.weight"]}, "the file also has conv1.binary_mask; choose"),
        ({"conv1.lora_A": torch.ones(4, 4)}, "the file also has conv1.lora_A; choose"),
        ({"conv1.weight": torch.ones(8, 3, 3, 3)}, r"the file has of another shape conv1.weight \(8, 3, 3"),
        ({n: STATE[n].to(torch.int8) for n in WEIGHTS} | SCALES, "conv1.weight holds whole numbers"),
        ({n: STATE[n].to(torch.float8_e4m3fn) for n in WEIGHTS} | SCALES,
         "conv1.weight holds eight-bit numbers .*as quantised weights do"),
    ],
)  # fmt: skip
def test_refusals_name_the_reason_in_public_layouts(entry, more, message):
    with pytest.raises(BadRequest, match=message):
        entry({**STATE, **more})


def test_a_mask_on_the_direction_of_a_weight_norm(entry):
    net = made()
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(net.linear)
    prune.l1_unstructured(net.linear, "weight_v", 0.5)
    agree(entry(net.state_dict()), net)


def nested(state):
    tree = {}
    for name, tensor in state.items():
        *parts, leaf = name.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[leaf] = tensor
    return tree


BODY = {name: tensor for name, tensor in STATE.items() if "linear" not in name}


HEAD = {name: tensor for name, tensor in STATE.items() if "linear" in name}


@pytest.mark.parametrize(
    "content",
    [
        nested(STATE),
        {"state_dict": nested(STATE), "epoch": 3},
        {"encoder": BODY, "head": HEAD, "epoch": 3},
        {"encoder": BODY, "linear": NET.linear.state_dict(), "args": {"lr": 0.1}},
    ],
)
def test_a_network_in_parts(entry, content):
    agree(entry(content), NET)


def test_a_normalisation_beside_parts(entry):
    content = {"encoder": BODY, "head": HEAD, "mean": [0.5], "std": [0.25]}
    with pytest.raises(BadRequest, match="holds 2 networks: encoder, head"):
        entry(content)
    agree(entry(content, ",normalize=0.5/0.25"), NET, lambda x: (x - 0.5) / 0.25)


def test_parts_that_are_no_network_are_still_asked_about(entry):
    other = made(1).state_dict()
    for content in (
        {"net": STATE, "ema": other},
        {"net": STATE, "teacher": BODY},
        {"a": BODY, "b": BODY | HEAD},
    ):
        first, second = content
        with pytest.raises(BadRequest, match=rf"2 networks: {first}, {second}; name one, \[key={first}\]"):
            entry(content)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: name.replace("layer1.", "layer1._orig_mod."),
        lambda name: "_fsdp_wrapped_module." + name.replace("layer2.0.", "layer2.0._fsdp_wrapped_module."),
        lambda name: "module." + name.replace("layer3.", "layer3.module._orig_mod."),
    ],
)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_wrappers_anywhere(tmp_path, wrap, kind):
    from safetensors.torch import save_file

    state = {wrap(name): tensor.clone() for name, tensor in STATE.items()}
    (torch.save if kind == "pt" else save_file)(state, tmp_path / f"w.{kind}")
    text = f"weights:{tmp_path}/w.{kind}[arch=resnet18,width=0.125,norm=affine,classes=10,shape=1x8x8"
    found = load_reference(f"{text}]")
    agree(found, NET)
    assert found.info.flags == ()


def test_names_that_wrappers_keep_apart(entry):
    """A raw network and one in a wrapper stay two; options may name the wrapper."""
    other = made(1)
    content = {**STATE, **{f"module.{name}": tensor for name, tensor in other.state_dict().items()}}
    with pytest.raises(BadRequest, match=r"under no prefix and 'module\.' is a whole resnet18"):
        entry(content)
    agree(entry(content, ",prefix=module."), other)
    agree(entry(content, ",without=module"), NET)
    plain = {f"module.{name}": tensor for name, tensor in STATE.items()}
    agree(entry(plain, ",prefix=module."), NET)
