"""Networks against published sizes, and the module classes they are made of."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from torch import nn

from rstbench.errors import BadRequest
from rstbench.networks.network import NetworkSpec, build, prunable

CIFAR = (3, 32, 32)


def weights(name, **options):
    return sum(w.numel() for w in prunable(build(NetworkSpec(name, CIFAR, 10, **options))).values())


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # Frankle and Carbin 2019, figure 2: 4.3M and 2.4M.
        ("conv2", 4_300_992),
        ("conv4", 2_425_024),
        # Weights without biases and norms, from the layer tables of the papers.
        ("conv6", 2_261_184),
        ("resnet18", 11_164_352),
        ("wrn-28-10", 36_461_232),
        ("wrn-34-10", 46_138_032),
        ("vgg16", 14_715_584),
    ],
)
def test_weights(name, published):
    assert weights(name) == published


@pytest.mark.parametrize(
    ("name", "library", "stem"),
    [
        # The CIFAR stem has 3x3 instead of 7x7 kernels; the classifier has no bias.
        ("resnet18", "resnet18", 3 * 64 * (49 - 9)),
        ("resnet34", "resnet34", 3 * 64 * (49 - 9)),
        ("resnet50", "resnet50", 3 * 64 * (49 - 9)),
        ("mobilenetv2", "mobilenet_v2", 0),
    ],
)
def test_parameters_against_torchvision(name, library, stem):
    theirs = torchvision.models.get_model(library, num_classes=10)
    ours = build(NetworkSpec(name, CIFAR, 10, norm="affine"))
    assert parameters(ours) == parameters(theirs) - stem - 10


def test_wide_resnet_of_trades_and_of_its_authors():
    # 46,160,474 and 36,479,194 parameters with affine norms and a classifier with bias.
    assert parameters(build(NetworkSpec("wrn-34-10", CIFAR, 10, norm="affine"))) == 46_160_474 - 10
    assert parameters(build(NetworkSpec("wrn-28-10", CIFAR, 10, norm="affine"))) == 36_479_194 - 10


def test_mobilenet_strides_are_where_they_belong():
    net, sizes = build(NetworkSpec("mobilenetv2", CIFAR, 10, 0.25)).eval(), []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.register_forward_hook(lambda module, x, out: sizes.append(out.shape[-1]))
    net(torch.rand(1, *CIFAR))
    assert sizes == [32] * 3 + [16] * 3 + [8] * 7 + [4] * 4


@pytest.mark.parametrize(
    "name",
    [
        "conv2",
        "conv6",
        "vgg16",
        "resnet18",
        "resnet50",
        "preactresnet18",
        "wrn-28-10",
        "mobilenetv2",
        "torchvision:resnet18",
    ],
)
@pytest.mark.parametrize("norm", ["batch", "affine", "none"])
def test_torch_classes_only_and_no_bias(name, norm):
    width = 1.0 if ":" in name else 0.1
    net = build(NetworkSpec(name, CIFAR, 7, width, norm))
    assert all(type(part).__module__.startswith(("torch.nn.", "torch.fx.")) for part in net.modules())
    assert net.eval()(torch.rand(2, *CIFAR)).shape == (2, 7)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert bool(norms) == (norm != "none")
    assert all((part.weight is not None) == (norm == "affine") for part in norms)
    assert set(prunable(net)) == {n for n, p in net.named_parameters() if p.dim() > 1}
    biases = [n for n, p in net.named_parameters() if p.dim() == 1]
    assert bool(biases) == (norm == "affine")


def test_width_scales_every_hidden_layer():
    assert weights("resnet18", width=0.5) == pytest.approx(weights("resnet18") / 4, rel=0.01)
    assert weights("wrn-28-10", width=0.1) < weights("wrn-28-10") / 90


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("conv7", {}, "did you mean"),
        ("torchvision:resnet8", {}, "did you mean 'resnet18'"),
        ("torchvision:resnet18", {"width": 0.5}, "fixed"),
        ("resnet18", {"norm": "layer"}, "no norm named 'layer'"),
        ("resnet18", {"width": -1}, "positive"),
    ],
)
def test_wrong_networks(name, options, message):
    with pytest.raises(BadRequest, match=message):
        build(NetworkSpec(name, CIFAR, 10, **options))


SMALL = [("conv6", (1, 4, 4)), ("vgg16", (1, 28, 28)), ("torchvision:resnet18", (1, 64, 64))]


@pytest.mark.parametrize(("name", "shape"), SMALL)
def test_images_that_do_not_fit(name, shape):
    with pytest.raises(BadRequest, match=r"too small|3 channels"):
        build(NetworkSpec(name, shape, 10))


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec("conv2", CIFAR, 10),
        NetworkSpec("preactresnet18", CIFAR, 7, 0.5, "affine", True, "cifar10", "last", "input"),
    ],
)
def test_a_spec_is_read_back_from_its_file(spec):
    plain = json.loads(json.dumps(spec.to_dict()))
    assert NetworkSpec.from_dict(plain) == spec
    assert ("bias" in plain) == (spec.bias != "none")
    with pytest.raises(TypeError):
        NetworkSpec.from_dict({**plain, "depth": 3})
