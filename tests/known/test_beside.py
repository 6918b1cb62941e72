"""What lies in a checkpoint beside a network: the answers of the code that wrote it, or a refusal."""

from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rstbench.errors import BadRequest
from rstbench.models.wrapper import load_reference

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.shortcut(x)).relu()


class Net(nn.Module):
    """kuangliu/pytorch-cifar's ResNet for grey images, an eighth as wide or more."""

    def __init__(self, depths=(2, 2, 2, 2), wide=8, classes=10, channels=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wide, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        inputs = wide
        for place, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                blocks.append(Block(inputs, wide * 2**place, 2 if index == 0 and place else 1))
                inputs = wide * 2**place
            setattr(self, f"layer{place + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        return self.linear(out.mean((2, 3)))


def made(seed=0, **sizes):
    torch.manual_seed(seed)
    net = Net(**sizes)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    return net.eval()


NET = made()
STATE = NET.state_dict()
WEIGHTS = [name for name, tensor in STATE.items() if tensor.dim() > 1]
BITS = {name: torch.rand(STATE[name].shape) < 0.5 for name in WEIGHTS}
SCORES = {name: torch.randn(STATE[name].shape) for name in WEIGHTS}


SCALES = {f"{name}_scale": torch.ones(1) for name in WEIGHTS}


def with_weights(change):
    """The network with other weights: change: (name, weight) to weight."""
    net = made()
    net.load_state_dict({n: change(n, t) if n in WEIGHTS else t for n, t in STATE.items()})
    return net


@pytest.fixture
def entry(tmp_path):
    """Saves a file's content and reads it as the network."""

    def read(content, options="", arch="arch=resnet18,width=0.125,norm=affine"):
        torch.save(content, tmp_path / "c.pt")
        text = f"weights:{tmp_path}/c.pt[{arch},classes=10,shape=1x8x8{options}]"
        return load_reference(text)

    return read


def agree(entry, net, change=lambda x: x):
    with torch.no_grad():
        wanted = net(change(X))
        assert torch.allclose(entry.module(X), wanted, atol=1e-5 * float(wanted.abs().max()))


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
