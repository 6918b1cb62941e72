"""Networks of torchvision and timm against the libraries' own builders, on random weights."""

from __future__ import annotations

import pickle
import re
import warnings

import pytest
import torch
from torch import nn
from torchvision import models

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.sources.torchvision_files import library_module
from rstbench.models.wrapper import load_reference
from tests.known.library_weights import SPREAD, Trap, scattered


@pytest.fixture
def hub_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def own_file(folder, name, weights, seed=0):
    """A file with random weights under the library's own name, as the library would have it."""
    chosen = models.get_model_weights(name)[weights]
    extra = {"image_size": chosen.meta["min_size"][0]} if name.startswith("vit") else {}
    extra |= {"input_size": chosen.meta["min_size"]} if name == "maxvit_t" else {}
    several = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    state = scattered(models.get_model(name, weights=None, **extra, **several), seed).state_dict()
    path = folder / chosen.url.rpartition("/")[2]
    if name.startswith("densenet"):  # the files are of a time when layers had other names
        state = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
            for key, value in state.items()
            if not key.endswith("num_batches_tracked")
        }
    torch.save(state, path)
    return chosen


def agrees(name, weights, folder, size):
    chosen = own_file(folder, name, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = models.get_model(name, weights=chosen).eval()
    presets = chosen.transforms()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (presets.mean, presets.std))
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    entry = load_reference(f"torchvision:{name}/{weights}")
    with torch.no_grad():
        wanted, found = library((x - mean) / std), entry.module(x)
    assert wanted.isfinite().all()
    assert float(wanted.std(0).max()) > 0  # a network that tells images apart
    assert float((wanted - found).abs().max()) <= SPREAD * float(wanted.abs().max())
    return entry


HANDFUL = [
    ("googlenet", "IMAGENET1K_V1", 64),
    ("inception_v3", "IMAGENET1K_V1", 96),
    ("densenet121", "IMAGENET1K_V1", 64),
    ("mnasnet0_5", "IMAGENET1K_V1", 64),  # its files tell the version of the network
    ("mobilenet_v3_small", "IMAGENET1K_V1", 64),
    ("squeezenet1_1", "IMAGENET1K_V1", 64),
    ("shufflenet_v2_x0_5", "IMAGENET1K_V1", 64),
]


@pytest.mark.parametrize(("name", "weights", "size"), HANDFUL)
def test_torchvision_networks_are_the_librarys_own(hub_dir, name, weights, size):
    entry = agrees(name, weights, hub_dir, size)
    assert entry.resumable
    assert not any(parameter.requires_grad for parameter in entry.module.parameters())
    assert not any(part.training for part in entry.module.modules())


EVERY = [
    (name, weights)
    for name in models.list_models(module=models)
    for weights in models.get_model_weights(name).__members__
    if models.get_model_weights(name)[weights].meta["num_params"] < 1.2e8
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights"), EVERY)
def test_every_torchvision_network_is_the_librarys_own(hub_dir, name, weights):
    meta = models.get_model_weights(name)[weights].meta
    fixed = name.startswith(("vit", "maxvit"))
    agrees(name, weights, hub_dir, meta["min_size"][0] if fixed else max(96, meta["min_size"][0]))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_bare_weights_of_the_library_keep_its_settings(hub_dir, tmp_path, name):
    """Under its own name, wherever it lies; a file of another name is another's."""
    chosen = own_file(hub_dir, name, "IMAGENET1K_V1")
    file = hub_dir / chosen.url.rpartition("/")[2]
    moved = file.rename(tmp_path / file.name)
    module = library_module(f"torchvision:{name}", moved)
    assert module is not None
    assert module.transform_input
    assert library_module("torchvision:resnet18", moved) is None
    assert library_module(f"timm:{name}", moved) is None
    assert library_module(f"torchvision:{name}", moved.rename(tmp_path / "mine.pth")) is None
    torch.save({"fc.weight": torch.ones(2, 2)}, moved)
    with pytest.raises(
        BadRequest, match=rf"is not the file of torchvision:{name}/IMAGENET1K_V1 that its name"
    ):
        library_module(f"torchvision:{name}", moved)


def test_a_librarys_file_runs_no_code(hub_dir, capsys):
    chosen = models.get_model_weights("googlenet")["IMAGENET1K_V1"]
    file = hub_dir / chosen.url.rpartition("/")[2]
    for content in ({"w": Trap()}, {"conv1.conv.weight": torch.ones(2), "x": Trap()}):
        torch.save(content, file)
        with pytest.raises(BadFile, match="would run code"):
            load_reference("torchvision:googlenet/IMAGENET1K_V1")
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(BadFile, match=r"would run code|no whole file|damaged"):
            load_reference("torchvision:googlenet/IMAGENET1K_V1")
    assert capsys.readouterr().out == ""
    # The library's own loader is back in its place.
    assert "get_state_dict" not in vars(type(chosen))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_random_start_has_no_auxiliary_answers(name):
    entry = load_reference(f"torchvision:{name}[classes=7]")
    x = torch.rand(2, 3, 96, 96).requires_grad_()
    logits = entry.module(x)
    assert logits.shape == (2, 7)
    assert torch.autograd.grad(logits.sum(), x)[0].isfinite().all()
    assert load_reference(f"torchvision:{name}[classes=7]").digest == entry.digest


def test_other_channels_by_hand(hub_dir):
    """Grey weights are the sum over the channels; the normalisation is the channels' average."""
    own_file(hub_dir, "squeezenet1_1", "IMAGENET1K_V1")
    rgb = load_reference("torchvision:squeezenet1_1/IMAGENET1K_V1")
    grey = load_reference("torchvision:squeezenet1_1/IMAGENET1K_V1[in_chans=1]")
    assert grey.info.flags == ("channels-adapted",)
    assert grey.info.name.endswith("[in_chans=1]")
    assert grey.digest != rgb.digest
    x = torch.rand(2, 1, 64, 64)
    same = (x - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3)
    wanted = rgb.module[1](same.expand(2, 3, 64, 64))
    assert torch.allclose(grey.module(x), wanted, atol=1e-3 * float(wanted.abs().max()))
    four = load_reference("torchvision:squeezenet1_1/IMAGENET1K_V1[in_chans=4]").module
    weight = rgb.module[1].features[0].weight
    assert torch.allclose(four[1].features[0].weight, torch.cat([weight, weight[:, :1]], 1) * 3 / 4)
    own_file(hub_dir, "googlenet", "IMAGENET1K_V1")
    with pytest.raises(BadRequest, match="shifts each of its three channels"):
        load_reference("torchvision:googlenet/IMAGENET1K_V1[in_chans=1]")


@pytest.mark.parametrize(
    "reference", ["torchvision:squeezenet1_1", "timm:resnet10t", "timm:vit_tiny_patch16_224"]
)
def test_images_that_a_network_does_not_take(reference):
    """Digits are grey and small: the fault says what helps, and other images go through."""
    images = load("digits:test:4")
    x, _ = images.at(slice(None))
    with pytest.raises(ValueError, match=r"it takes 3 channels, the images have 1; add \[in_chans=1\]"):
        load_reference(reference, images).module(x)
    grey = load_reference(f"{reference}[in_chans=1]", images)
    if reference == "timm:resnet10t":
        assert grey.module(x).shape == (4, 10)
        assert grey.info.name == "timm:resnet10t[in_chans=1,seed=0]"
        return
    with pytest.raises(ValueError, match="images of 8x8 are too small, or not of its own size"):
        grey.module(x)
    size = 224 if "vit" in reference else 64
    assert grey.module(torch.rand(1, 1, size, size)).shape == (1, 10)


@pytest.mark.parametrize("value", ["0", "x", "-1", "1.5"])
def test_channels_that_are_none(value):
    with pytest.raises(BadRequest, match="in_chans is the number of channels"):
        load_reference(f"torchvision:squeezenet1_1[classes=2,in_chans={value}]")


def test_the_file_is_read_as_images_are_normalised(hub_dir):
    """The presets of the weights, not ImageNet's numbers by heart."""
    chosen = own_file(hub_dir, "squeezenet1_1", "IMAGENET1K_V1")
    first = load_reference("torchvision:squeezenet1_1/IMAGENET1K_V1").module[0]
    assert isinstance(first, nn.Module)
    assert torch.allclose(first(torch.tensor(chosen.transforms().mean).view(1, 3, 1, 1)), torch.zeros(1))
