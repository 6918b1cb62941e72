"""Users' files of the libraries' networks: what no tensor tells is asked for, sizes are named."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.models.wrapper import load_reference


def scattered(net):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.1, generator=generator)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    return net.eval().requires_grad_(False)


def shifted(x):
    """How torchvision's own weights were trained: from pixels by one mean and deviation to each channel's."""
    deviations, means = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406))
    )
    return x * deviations / 0.5 + (means - 0.5) / 0.5


@pytest.fixture(scope="module", params=["googlenet", "inception_v3"])
def tuned(request, tmp_path_factory):
    """(name, network that does not shift, file): a network of five classes, saved by its user."""
    net = scattered(models.get_model(request.param, weights=None, num_classes=5, init_weights=False))
    path = tmp_path_factory.mktemp(request.param) / "mine.pth"
    torch.save(net.state_dict(), path)
    return request.param, net, path


def alike(found, wanted):
    return torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@torch.no_grad()
def test_whether_a_network_shifts_its_input_is_asked_for(tuned):
    name, net, path = tuned
    text = f"weights:{path}[arch=torchvision:{name},classes=5"
    for more in ("", ",in_chans=3", ",normalize=half"):
        with pytest.raises(BadRequest, match=rf"this {name} shifts .* add \[transform_input=true\].*false\]"):
            load_reference(f"{text}{more}]")
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    plain, shifts = (load_reference(f"{text},transform_input={said}]") for said in ("false", "true"))
    assert alike(plain.module(x), net(x))
    assert alike(shifts.module(x), net(shifted(x)))
    assert not alike(net(shifted(x)), net(x))
    assert plain.digest != shifts.digest
    assert "transform_input=true" in shifts.info.name


@pytest.mark.parametrize("heads", ["none", "of other classes", "as built"])
@torch.no_grad()
def test_auxiliary_heads_take_no_part(tuned, tmp_path, heads):
    """They answer in training only, whether a file has them or not."""
    name, net, _ = tuned
    own = ("aux1.", "aux2.", "AuxLogits.")
    state = {key: value for key, value in net.state_dict().items() if not key.startswith(own)}
    more = {key: value for key, value in net.state_dict().items() if key.startswith(own)}
    if heads == "of other classes":
        heads_of = {key: value for key, value in more.items() if value.dim()}
        more = {k: torch.ones(9, *v.shape[1:]) if len(v) == 5 else v for k, v in heads_of.items()}
        assert any(len(value) == 9 for value in more.values())
    save_file(state if heads == "none" else state | more, tmp_path / "file.safetensors")
    text = f"weights:{tmp_path}/file.safetensors[arch=torchvision:{name},classes=5,transform_input=false]"
    entry, x = load_reference(text), torch.rand(2, 3, 96, 96)
    assert alike(entry.module(x), net(x))
    assert ("without=" in entry.info.name) == (heads != "none")


def test_where_the_option_has_no_meaning(tmp_path):
    torch.save(models.resnet18(num_classes=2).state_dict(), tmp_path / "r.pth")
    text = f"weights:{tmp_path}/r.pth[arch="
    for options, message in (
        ("torchvision:resnet18,classes=2,transform_input=true", "goes with googlenet and inception_v3"),
        ("torchvision:googlenet,classes=2,transform_input=yes", "transform_input is true or false"),
        ("torchvision:googlenet,classes=2,in_chans=1,transform_input=true", "three channels, got 1"),
        ("resnet18,classes=2,transform_input=true", "go with networks of torchvision and timm"),
    ):
        with pytest.raises(BadRequest, match=message):
            load_reference(f"{text}{options}]")


def test_a_library_file_stays_the_librarys_beside_other_options(tmp_path):
    """Only what the library's own file cannot have takes its name away from it."""
    chosen = models.GoogLeNet_Weights.IMAGENET1K_V1
    net = scattered(models.googlenet(weights=None, init_weights=False))
    file = tmp_path / chosen.url.rpartition("/")[2]
    torch.save(net.state_dict(), file)
    text = f"weights:{file}[arch=torchvision:googlenet"
    x = torch.rand(2, 3, 64, 64)
    for more in ("", ",in_chans=3", ",classes=1000"):
        assert alike(load_reference(f"{text}{more}]").module(x), net(shifted(x)))
    half = load_reference(f"{text},normalize=half]").module(x)
    assert alike(half, net(shifted((x - 0.5) / 0.5)))
    for more, message in (
        ("classes=10", "has 1000 classes, got classes=10"),
        ("in_chans=1", "shifts each of its three channels"),
        ("classes=1000,without=aux1+aux2", r"add \[transform_input=true\]"),
        ("prefix=net.", "no tensor of the file begins with"),
    ):
        with pytest.raises(BadRequest, match=message):
            load_reference(f"{text},{more}]")
    digits = load("digits:test:2")
    with pytest.raises(ValueError, match="it takes 3 channels, the images have 1; convert the images"):
        load_reference(f"{text}]", digits).module(digits.at(slice(None))[0])


def test_a_library_file_is_carried_over_to_other_channels(tmp_path):
    chosen = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    net = scattered(models.squeezenet1_1(weights=None))
    file = tmp_path / chosen.url.rpartition("/")[2]
    torch.save(net.state_dict(), file)
    text = f"weights:{file}[arch=torchvision:squeezenet1_1"
    images = load("digits:test:2")
    with pytest.raises(ValueError, match=r"the images have 1; add \[in_chans=1\]"):
        load_reference(f"{text}]", images).module(images.at(slice(None))[0])
    grey, x = load_reference(f"{text},in_chans=1]", images), torch.rand(2, 1, 64, 64)
    assert grey.info.flags == ("channels-adapted",)
    assert alike(grey.module(x), net(x.expand(2, 3, 64, 64)))


def grey_squeezenet():
    net = models.squeezenet1_1(weights=None, num_classes=10)
    net.features[0] = nn.Conv2d(1, 64, 3, 2)
    return scattered(net)


def test_the_sizes_of_a_file_are_named(tmp_path):
    """Of a data set of ten classes, grey: what would fit the file, and with it the file's own network."""
    import timm

    rgb = scattered(models.squeezenet1_1(weights=None, num_classes=10))
    many = scattered(timm.create_model("resnet10t", num_classes=37, in_chans=1))
    grey, digits = grey_squeezenet(), load("digits:test:2")
    for file, arch, net, options, channels in (
        ("grey.pth", "torchvision:squeezenet1_1", grey, "in_chans=1", 1),
        ("many.safetensors", "timm:resnet10t", many, "in_chans=1,classes=37", 1),
    ):
        path = tmp_path / file
        (save_file if path.suffix == ".safetensors" else torch.save)(net.state_dict(), path)
        with pytest.raises(BadRequest, match=rf"\[{options}\]: with that the file holds the whole {arch}"):
            load_reference(f"weights:{path}[arch={arch}]", digits)
        x = torch.rand(2, channels, 64, 64)
        assert alike(load_reference(f"weights:{path}[arch={arch},{options}]", digits).module(x), net(x))
    with pytest.raises(BadRequest, match=r"\[in_chans=1,classes=37\]: with that"):
        load_reference(f"timm:resnet10t[checkpoint={tmp_path}/many.safetensors]", digits)
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    text = f"weights:{tmp_path}/rgb.pth[arch=torchvision:squeezenet1_1"
    with pytest.raises(ValueError, match="the images have 1; convert the images in a file of your own"):
        load_reference(f"{text}]", digits).module(digits.at(slice(None))[0])
    with pytest.raises(BadRequest, match=r"\[in_chans=3\]: with that the file holds the whole"):
        load_reference(f"{text},in_chans=1]", digits)
    with pytest.raises(BadRequest, match="choose another arch, or load it in a file of your own"):
        load_reference(f"weights:{tmp_path}/rgb.pth[arch=torchvision:mnasnet0_5]", digits)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_densenets_of_an_older_time(tmp_path, library):
    """Their layers' names had dots in them; a file of any name is read as the library reads its own."""
    import timm

    build = {"torchvision": models.densenet121, "timm": lambda **k: timm.create_model("densenet121", **k)}
    net = scattered(build[library](num_classes=10))
    older = {
        re.sub(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.", name): tensor
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in older.items()}}, tmp_path / "d.pth"
    )
    entry, x = (
        load_reference(f"weights:{tmp_path}/d.pth[arch={library}:densenet121,classes=10]"),
        torch.rand(2, 3, 64, 64),
    )
    assert alike(entry.module(x), net(x))
    assert entry.info.flags == ()
