"""Networks of public adversarial training code, re-stated, run, and read by us with equal logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, silu

from rstbench.errors import BadRequest
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build


def conv(inputs, outputs, size=3, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Basic(nn.Module):
    growth = 1

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.shortcut(x)).relu()


class Bottleneck(nn.Module):
    growth = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != 4 * width:
            self.shortcut = nn.Sequential(conv(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return (self.bn3(self.conv3(out)) + self.shortcut(x)).relu()


class PreAct(nn.Module):
    """raw: the shortcut of fast_adversarial; else that of robust_overfitting."""

    growth = 1

    def __init__(self, inputs, width, stride, raw):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.raw = raw
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride))

    def forward(self, x):
        out = self.bn1(x).relu()
        beside = self.shortcut(x if self.raw else out) if hasattr(self, "shortcut") else x
        return self.conv2(self.bn2(self.conv1(out)).relu()) + beside


class Residual(nn.Module):
    """Four stages, a stem of one 3x3 convolution, and a last layer with a bias."""

    def __init__(self, block, depths=(2, 2, 2, 2), wide=8, *, stem_norm=True, last_norm=False):
        super().__init__()
        self.conv1 = conv(3, wide)
        self.bn1 = nn.BatchNorm2d(wide) if stem_norm else nn.Identity()
        inputs = wide
        for place, depth in enumerate(depths):
            width, blocks = wide * 2**place, []
            for index in range(depth):
                blocks.append(block(inputs, width, 2 if index == 0 and place else 1))
                inputs = width * blocks[-1].growth
            setattr(self, f"layer{place + 1}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(inputs) if last_norm else nn.Identity()
        self.linear = nn.Linear(inputs, 10)
        self.stem_norm, self.last_norm = stem_norm, last_norm

    def forward(self, x):
        out = self.conv1(x)
        out = self.bn1(out).relu() if self.stem_norm else out
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        out = self.bn(out).relu() if self.last_norm else out
        return self.linear(adaptive_avg_pool2d(out, 1).flatten(1))


class WideBlock(nn.Module):
    """The block of TRADES: where sizes change the activated input goes both ways."""

    def __init__(self, inputs, width, stride, activation):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.convShortcut = conv(inputs, width, 1, stride) if inputs != width else None
        self.activation = activation

    def forward(self, x):
        out = self.activation(self.bn1(x))
        beside = x if self.convShortcut is None else self.convShortcut(out)
        return beside + self.conv2(self.activation(self.bn2(self.conv1(out))))


class Wide(nn.Module):
    """The Wide ResNet-34 of TRADES, a tenth as wide, with the block that it never calls."""

    def __init__(self, activation=torch.relu, unused=True):
        super().__init__()

        def group(inputs, width, stride):
            blocks = [WideBlock(inputs if n == 0 else width, width, stride if n == 0 else 1, activation)
                      for n in range(5)]  # fmt: skip
            found = nn.Module()
            found.layer = nn.Sequential(*blocks)
            return found

        self.conv1, self.block1 = conv(3, 2), group(2, 16, 1)
        if unused:
            self.sub_block1 = group(2, 16, 1)
        self.block2, self.block3 = group(16, 32, 2), group(32, 64, 2)
        self.bn1, self.fc = nn.BatchNorm2d(64), nn.Linear(64, 10)
        self.activation = activation

    def forward(self, x):
        out = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            out = block.layer(out)
        return self.fc(adaptive_avg_pool2d(self.activation(self.bn1(out)), 1).flatten(1))


def worn(net):
    """A network whose norms and last bias are not those of a fresh one."""
    torch.manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    return net.eval()


OUT, X = "shortcut=activated,width=0.125", "shortcut=input,width=0.125"
SIZE = "norm=affine,shape=3x32x32,classes=10"
RAW, ACTIVE = (lambda *sizes: PreAct(*sizes, raw=True)), (lambda *sizes: PreAct(*sizes, raw=False))


@pytest.mark.parametrize(
    ("net", "arch"),
    [
        (lambda: Residual(Basic), "resnet18,width=0.125"),
        (lambda: Residual(Bottleneck, (3, 4, 6, 3)), "resnet50,width=0.125"),
        (lambda: Residual(ACTIVE, stem_norm=False, last_norm=True), f"preactresnet18,{OUT}"),
        (lambda: Residual(RAW, stem_norm=False, last_norm=True), f"preactresnet18,{X}"),
        (lambda: Residual(ACTIVE, stem_norm=False), f"preactresnet18-raw,{OUT}"),
        (lambda: Residual(RAW, stem_norm=False), f"preactresnet18-raw,{X}"),
        (Wide, "wrn-34-10,width=0.1"),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_public_layouts(tmp_path, net, arch, nested):
    torch.manual_seed(1)
    net, x = worn(net()), torch.rand(4, 3, 32, 32)
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state} if nested else net.state_dict(), tmp_path / "m.pt")
    entry = load_reference(f"weights:{tmp_path}/m.pt[arch={arch},{SIZE}]")
    logits = net(x).detach()
    assert torch.allclose(entry.module(x), logits, atol=1e-5 * float(logits.abs().max()))
    assert "bias=last" in entry.info.name
    assert "norm=affine,bias=last" in entry.info.network
    assert ("without=" in entry.info.name) == isinstance(net, Wide)
    assert entry.info.flags == ()
    explicit = load_reference(f"weights:{tmp_path}/m.pt[arch={arch},{SIZE},bias=last]")
    assert explicit.digest == entry.digest


def test_another_function_of_the_same_shapes_is_not_taken_for_ours(tmp_path):
    """The Wide ResNet of DeepMind's code: the same tensors in the same order, and Swish between them."""
    net = worn(Wide(silu, unused=False))
    names = {"convShortcut": "shortcut", "block1.": "layer.0.", "block2.": "layer.1.", "block3.": "layer.2."}
    state = {}
    for name, tensor in net.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = tensor
    torch.save(state, tmp_path / "m.pt")
    text = f"weights:{tmp_path}/m.pt[arch=wrn-34-10,width=0.1,{SIZE}"
    with pytest.raises(BadRequest, match=r"of no known layout of wrn-34-10 .*add \[match=order\]"):
        load_reference(f"{text}]")
    assert load_reference(f"{text},match=order]").info.flags == ("matched-by-order",)


def test_the_two_networks_of_one_name(tmp_path):
    """What is in no file is asked for, with and without a norm before the last layer."""
    for net, arch in ((Residual(RAW, stem_norm=False), "preactresnet18-raw"),
                      (Residual(RAW, stem_norm=False, last_norm=True), "preactresnet18")):  # fmt: skip
        torch.save(worn(net).state_dict(), tmp_path / "m.pt")
        text = f"weights:{tmp_path}/m.pt[arch={arch},width=0.125,{SIZE}"
        with pytest.raises(BadRequest, match=r"which no file tells: add \[shortcut=activated\]"):
            load_reference(f"{text}]")
        input_, activated = (load_reference(f"{text},shortcut={s}]") for s in ("input", "activated"))
        assert input_.digest != activated.digest
        assert ("shortcut=" in input_.info.network) != ("shortcut=" in activated.info.network)
    torch.save(worn(Residual(RAW, stem_norm=False)).state_dict(), tmp_path / "m.pt")
    with pytest.raises(BadRequest, match=r"or \[arch=preactresnet18-raw,bias=last\]: with that"):
        load_reference(f"weights:{tmp_path}/m.pt[arch=preactresnet18,width=0.125,{SIZE}]")
    for wrong, message in (("arch=resnet18", "shortcut goes with preactresnet18"),
                           ("arch=preactresnet18", "no shortcut named 'x'")):  # fmt: skip
        with pytest.raises(BadRequest, match=message):
            load_reference(f"weights:{tmp_path}/m.pt[{wrong},shortcut=x,{SIZE}]")


def test_a_network_with_another_shortcut_is_saved_and_read_as_such():
    spec = NetworkSpec("preactresnet18-raw", (3, 32, 32), 10, 0.05, "affine", shortcut="activated")
    assert NetworkSpec(**spec.to_dict()) == spec
    assert "shortcut" not in replace(spec, shortcut="input").to_dict()
    net, own = worn(build(spec)), worn(build(replace(spec, shortcut="")))
    own.load_state_dict(net.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(net(x), own(x))


def test_norms_are_not_left_over(tmp_path):
    torch.save(worn(Residual(Basic)).state_dict(), tmp_path / "m.pt")
    text = f"weights:{tmp_path}/m.pt[arch=resnet18,width=0.125,{SIZE}]"
    with pytest.raises(BadRequest, match=r"or \[norm=affine,bias=last\]: with that the file holds the whole"):
        load_reference(text.replace("affine", "none"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "arch"),
    [
        (lambda zoo: zoo.resnet.ResNet18(), "resnet18"),
        (lambda zoo: zoo.resnet.PreActResNet18(), "preactresnet18-raw,shortcut=input"),
        (
            lambda zoo: zoo.resnet.PreActResNet(
                zoo.resnet.PreActBlockV2, [2, 2, 2, 2], bn_before_fc=True, out_shortcut=True
            ),
            "preactresnet18,shortcut=activated",
        ),
        (lambda zoo: zoo.wide_resnet.WideResNet(34, sub_block1=True), "wrn-34-10"),
        (lambda zoo: zoo.wide_resnet.WideResNet(28, bias_last=False), "wrn-28-10"),
    ],
)
def test_the_networks_of_robustbench(tmp_path, build, arch):
    from rstbench.models.sources.robustbench import import_robustbench

    net = worn(build(import_robustbench().model_zoo.architectures))
    torch.save(net.state_dict(), tmp_path / "m.pt")
    entry, x = load_reference(f"weights:{tmp_path}/m.pt[arch={arch},{SIZE}]"), torch.rand(2, 3, 32, 32)
    logits = net(x).detach()
    assert torch.allclose(entry.module(x), logits, atol=1e-4 * float(logits.abs().max()))
