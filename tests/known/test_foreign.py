"""Checkpoints of other projects: their layer classes re-stated, run, and read by us, with equal logits."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.models.checkpoints.foreign import published_mask
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build
from rstbench.tickets.ticket import Ticket
from tests.known.foreign_nets import KEPT, Conv2, Subnet, signed_constants, trained_a_little


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:20")


@pytest.mark.parametrize(("pattern", "dims"), [("element", 4), ("row", 3), ("kernel", 2)])
@pytest.mark.parametrize("parallel", [True, False])
def test_rst_checkpoints(tmp_path, digits, pattern, dims, parallel):
    torch.manual_seed(0)
    net = trained_a_little(Conv2(dims), digits)
    state = {f"module.{k}" if parallel else k: v for k, v in net.state_dict().items()}
    torch.save({"epoch": 160, "arch": "Conv2", "state_dict": state, "best_acc1": 50.0}, tmp_path / "rst.pth")
    entry = load_reference(f"weights:{tmp_path}/rst.pth[arch=conv2,width=0.1,remaining=0.3]", digits)
    x, _ = digits.at(slice(None))
    assert torch.allclose(entry.module(x), net(x), atol=1e-5)
    assert entry.info.remaining == pytest.approx(KEPT, abs=0.02)
    assert {type(part).__module__.split(".")[0] for part in entry.module.modules()} == {"torch"}


def test_hydra_checkpoints(tmp_path, digits):
    torch.manual_seed(0)
    net = trained_a_little(Conv2(4, "popup_scores"), digits)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "h.pth")
    entry = load_reference(f"weights:{tmp_path}/h.pth[arch=conv2,width=0.1,remaining=0.3]", digits)
    x, _ = digits.at(slice(None))
    assert torch.allclose(entry.module(x), net(x), atol=1e-5)


def test_pruned_by_torch(tmp_path, digits):
    torch.manual_seed(0)
    net = trained_a_little(build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1)), digits)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(layer, "weight", amount=0.6)
    torch.save(net.state_dict(), tmp_path / "p.pt")
    entry = load_reference(f"weights:{tmp_path}/p.pt[arch=conv2,width=0.1]", digits)
    x, _ = digits.at(slice(None))
    assert entry.module(x).equal(net(x))
    assert entry.info.remaining == pytest.approx(0.4, abs=0.01)


def test_a_plain_sparse_state_dict_tells_what_is_kept(tmp_path, digits):
    net = build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data.flatten()[::2] = 0
    torch.save(net.state_dict(), tmp_path / "s.pt")
    entry = load_reference(f"weights:{tmp_path}/s.pt[arch=conv2,width=0.1]", digits)
    assert entry.info.remaining == pytest.approx(0.5, abs=0.01)


def test_the_published_count():
    """n - int((1 - k) n) in floating point: 4,609 of 5,120 for 0.9, where 4,608 would be exact."""
    weight = torch.ones(10, 512, 1, 1)
    mask = published_mask(torch.randn(10, 512, 1, 1), 0.9, weight)
    assert int(mask.sum()) == 4609
    rows = published_mask(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 0.5, torch.ones(2, 2, 3, 3))
    assert rows[:, :, 0, 0].tolist() == [[False, True], [True, False]]
    assert int(rows.sum()) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("arch=conv2,width=0.1", "the kept fraction; add remaining=0.05"),
        ("arch=conv2,width=0.1,remaining=3", "remaining is the kept fraction"),
        ("arch=conv2,width=0.2,remaining=0.3", "choose another arch"),
        ("arch=conv2,width=0.1,remaining=0.3,allocation=x", "uniform or p:0.1"),
    ],
)
def test_wrong_requests(tmp_path, digits, options, message):
    torch.save(Conv2(4).state_dict(), tmp_path / "rst.pth")
    with pytest.raises(BadRequest, match=message):
        load_reference(f"weights:{tmp_path}/rst.pth[{options}]", digits)


def test_a_fraction_for_a_file_without_scores(tmp_path, digits):
    torch.save(build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1)).state_dict(), tmp_path / "d.pt")
    with pytest.raises(BadRequest, match="go with files that hold scores"):
        load_reference(f"weights:{tmp_path}/d.pt[arch=conv2,width=0.1,remaining=0.3]", digits)


class Block(nn.Module):
    """A block of the published CIFAR ResNet-18."""

    def __init__(self, inputs, outputs, stride, dims):
        super().__init__()
        self.conv1, self.bn1 = Subnet(inputs, outputs, 3, dims, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = Subnet(outputs, outputs, 3, dims), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                Subnet(inputs, outputs, 1, dims, stride=stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()


class ResNet18(nn.Module):
    """The published cResNet18, a 1x1 convolution as its last layer, of an eighth of the width."""

    def __init__(self, dims):
        super().__init__()
        self.conv1, self.bn1 = Subnet(3, 8, 3, dims), nn.BatchNorm2d(8)
        widths = [8, 8, 16, 32, 64]
        for place in range(1, 5):
            inputs, outputs, stride = widths[place - 1], widths[place], 1 if place == 1 else 2
            blocks = [Block(inputs, outputs, stride, dims), Block(outputs, outputs, 1, dims)]
            setattr(self, f"layer{place}", nn.Sequential(*blocks))
        self.fc = Subnet(64, 10, 1, dims)

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        return self.fc(nn.functional.adaptive_avg_pool2d(out, 1)).flatten(1)


@pytest.mark.parametrize("dims", [4, 3, 2])
def test_the_published_resnet_under_its_own_names(tmp_path, dims):
    torch.manual_seed(0)
    net = ResNet18(dims)
    signed_constants(net)
    x = torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        for _ in range(5):
            net.train()(x)
        logits = net.eval()(x)
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"epoch": 160, "best_acc1": torch.tensor(50.0), "state_dict": state}, tmp_path / "rst.pth")
    shape = "arch=resnet18,width=0.125,norm=affine,shape=3x32x32,classes=10,remaining=0.3"
    entry = load_reference(f"weights:{tmp_path}/rst.pth[{shape}]")
    assert torch.allclose(entry.module(x), logits, atol=1e-5 * float(logits.abs().max()))
    assert entry.info.flags == ()
    constants = "0.491+0.482+0.447/0.247+0.243+0.262"
    text = f"weights:{tmp_path}/rst.pth[{shape},recipe=paper-cifar,data=cifar10,normalize={constants}]"
    ticket = load_reference(text)
    mean, std = (torch.tensor([float(v) for v in side.split("+")]).view(1, 3, 1, 1)
                 for side in constants.split("/"))  # fmt: skip
    assert torch.allclose(ticket.module(x * std + mean), logits, atol=1e-4 * float(logits.abs().max()))
    assert isinstance(ticket.artifact, Ticket)
    ticket.artifact.save(tmp_path / "t.safetensors")
    assert Ticket.load(tmp_path / "t.safetensors").recipe.pattern == entry_pattern(dims)


def entry_pattern(dims):
    return {4: "element", 3: "row", 2: "kernel"}[dims]


class Named(nn.Module):
    """conv2 with affine norm under other names."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.fc1, self.bn3 = nn.Linear(96, 26, bias=False), nn.BatchNorm1d(26)
        self.fc2, self.bn4 = nn.Linear(26, 26, bias=False), nn.BatchNorm1d(26)
        self.fc3 = nn.Linear(26, 10, bias=False)

    def forward(self, x):
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        return self.fc3(self.bn4(self.fc2(self.bn3(self.fc1(x)).relu())).relu())


def test_other_names_are_matched_by_order_where_a_file_has_one(tmp_path, digits):
    torch.manual_seed(0)
    net = trained_a_little(Named(), digits)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    torch.save(net.state_dict(), tmp_path / "n.pth")
    save_file(net.state_dict(), tmp_path / "n.safetensors")
    x, _ = digits.at(slice(None))
    entry = load_reference(f"weights:{tmp_path}/n.pth[arch=conv2,width=0.1,norm=affine]", digits)
    assert torch.allclose(entry.module(x), net(x), atol=1e-5)
    assert entry.info.flags == ("matched-by-order",)
    # safetensors lists its tensors by the alphabet.
    with pytest.raises(BadRequest, match=r"lacks 0.weight, .*; also has"):
        load_reference(f"weights:{tmp_path}/n.safetensors[arch=conv2,width=0.1,norm=affine]", digits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["0.weight_mask"].fill_(0.5), "of zeros and ones"),
        (
            lambda state: state.update({"zzz.scores": torch.ones(2)}),
            "the scores of zzz are not finite, or lack",
        ),
    ],
)
def test_masks_that_are_none(tmp_path, digits, change, message):
    net = build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    state = dict(net.state_dict())
    change(state)
    torch.save(state, tmp_path / "p.pt")
    with pytest.raises(BadRequest, match=message):
        load_reference(f"weights:{tmp_path}/p.pt[arch=conv2,width=0.1,remaining=0.3]", digits)
