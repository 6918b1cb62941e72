"""Checkpoints of other projects: their layer classes re-stated, run, and read by us, with equal logits."""

from __future__ import annotations

from fractions import Fraction

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
from rstbench.study.export import export_model
from rstbench.tickets.allocation import p_rule
from rstbench.tickets.ticket import Ticket

KEPT = 0.3


class Subnet(nn.Conv2d):
    """The published convolution: scores of the weight's shape or of its first dimensions, sorted anew."""

    def __init__(self, inputs, outputs, kernel, dims, name="scores", stride=1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        scores = torch.empty(self.weight.shape[:dims])
        nn.init.normal_(scores)
        self.register_parameter(name, nn.Parameter(scores))
        self.name, self.kept = name, KEPT
        self.weight.requires_grad_(False)

    def forward(self, x):
        scores = getattr(self, self.name).abs()
        out = scores.clone()
        _, order = scores.flatten().sort()
        dropped = int((1 - self.kept) * scores.numel())
        flat = out.flatten()
        flat[order[:dropped]] = 0
        flat[order[dropped:]] = 1
        mask = flat.view(scores.shape)
        while mask.dim() < 4:
            mask = mask.unsqueeze(-1)
        return nn.functional.conv2d(x, self.weight * mask, None, self.stride, self.padding)


class Conv2(nn.Module):
    """The published Conv2, its linear layers being 1x1 convolutions, here with non-affine batch norm."""

    def __init__(self, dims, name="scores", width=6, hidden=26):
        super().__init__()
        self.convs = nn.Sequential(
            Subnet(1, width, 3, dims, name), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            Subnet(width, width, 3, dims, name), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.linear = nn.Sequential(
            Subnet(16 * width, hidden, 1, dims, name), nn.BatchNorm2d(hidden, affine=False), nn.ReLU(),
            Subnet(hidden, hidden, 1, dims, name), nn.BatchNorm2d(hidden, affine=False), nn.ReLU(),
            Subnet(hidden, 10, 1, min(dims, 2), name),
        )  # fmt: skip

    def forward(self, x):
        out = self.convs(x)
        return self.linear(out.view(len(x), -1, 1, 1)).flatten(1)


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:20")


def trained_a_little(net, images):
    """Norm statistics that are not those of a fresh network."""
    x, _ = images.at(slice(None))
    with torch.no_grad():
        for _ in range(3):
            net.train()(x)
    return net.eval()


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


SETTINGS = "recipe=digits,data=digits,threat=Linf:0.1"


@pytest.mark.parametrize(("pattern", "dims"), [("element", 4), ("row", 3), ("kernel", 2)])
def test_a_checkpoint_becomes_a_ticket_where_its_recipe_is_known(tmp_path, digits, pattern, dims):
    torch.manual_seed(0)
    net = Conv2(dims)
    signed_constants(net)
    trained_a_little(net, digits)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "rst.pth")
    text = f"weights:{tmp_path}/rst.pth[arch=conv2,width=0.1,remaining=0.3,{SETTINGS}]"
    entry = load_reference(text, digits)
    x, _ = digits.at(slice(None))
    logits = net(x)
    near = 1e-5 * float(logits.detach().abs().max())
    assert torch.allclose(entry.module(x), logits, atol=near)
    assert isinstance(entry.artifact, Ticket)
    assert (entry.recipe.pattern, entry.recipe.init, entry.recipe.kept_count) == (
        pattern, "signed_constant", "authors",
    )  # fmt: skip
    assert (entry.info.kind, entry.info.method) == ("ticket", "rst")
    # Projects normalise in their data pipeline: the layer is part of the ticket.
    behind = load_reference(text.replace(SETTINGS, f"normalize=0.1/0.5,{SETTINGS}"), digits)
    assert torch.allclose(behind.module((x * 0.5) + 0.1), logits, atol=10 * near)
    assert behind.made.random_digest != entry.artifact.random_digest  # other names, another network
    files = export_model(text, "ticket", tmp_path / "t.safetensors", data="digits:test:4")
    again = load_reference(f"ticket:{files[0]}")
    assert again.module(x).equal(entry.module(x))
    assert again.info.kept_weights == entry.info.kept_weights


def test_a_binary_subnetwork(tmp_path, digits):
    """Liu et al. 2022: weights +-1, the p-rule, batch norm without affine parameters on the logits too."""
    torch.manual_seed(0)
    body = Conv2(4)
    layers = [part for part in body.modules() if isinstance(part, Subnet)]
    sizes = {str(place): layer.weight.numel() for place, layer in enumerate(layers)}
    ratios = p_rule(sizes, Fraction(3, 10), 0.1)
    for place, layer in enumerate(layers):
        layer.weight.data.sign_()
        layer.kept = ratios[str(place)]
    net = nn.Sequential(body, nn.BatchNorm1d(10, affine=False))
    trained_a_little(net, digits)
    assert len({layer.kept for layer in layers}) > 2
    torch.save({"state_dict": net.state_dict()}, tmp_path / "b.pth")
    options = "arch=conv2,width=0.1,last_norm=true,remaining=0.3,allocation=p:0.1"
    x, _ = digits.at(slice(None))
    for more in ("", f",{SETTINGS}"):
        entry = load_reference(f"weights:{tmp_path}/b.pth[{options}{more}]", digits)
        assert torch.allclose(entry.module(x), net(x), atol=1e-4)
    assert entry.recipe.init == "binary"
    assert entry.recipe.last_norm


def signed_constants(net):
    for part in net.modules():
        if isinstance(part, Subnet):
            part.weight.data = part.weight.sign() * (2 / part.weight[0].numel()) ** 0.5


@pytest.mark.parametrize(
    ("constants", "options", "message"),
    [
        (False, f"remaining=0.3,{SETTINGS}", "no signed constants: name their start, init=kaiming_normal"),
        (True, f"remaining=0.3,{SETTINGS},allocation=p:0.5,dense=last", "masks are not those of the recipe"),
        (True, "remaining=0.3,data=digits", "data go with recipe=NAME"),
        (True, "remaining=0.3,recipe=magic", "no recipe named 'magic'"),
        (True, f"remaining=0.3,{SETTINGS},colour=red", "no setting named 'colour'"),
        (True, f"remaining=0.3,{SETTINGS},epochs=many", "epochs wants a whole number"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, digits, constants, options, message):
    net = Conv2(4)
    if constants:
        signed_constants(net)
    torch.save(net.state_dict(), tmp_path / "r.pth")
    with pytest.raises(BadRequest, match=message):
        load_reference(f"weights:{tmp_path}/r.pth[arch=conv2,width=0.1,{options}]", digits)


def test_masks_alone_make_no_ticket(tmp_path, digits):
    net = build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    torch.save(net.state_dict(), tmp_path / "p.pt")
    with pytest.raises(BadRequest, match="masks without scores"):
        load_reference(f"weights:{tmp_path}/p.pt[arch=conv2,width=0.1,{SETTINGS}]", digits)


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
    assert isinstance(ticket.made, Ticket)
    ticket.made.save(tmp_path / "t.safetensors")
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
