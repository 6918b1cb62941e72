"""Models from elsewhere: normalisation, bare weights, library networks, what comes with packages."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torchvision import models

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.checkpoints.state_dict import read_state_dict
from rstbench.models.normalise import KNOWN, clearly_better, normalised, right_under
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build

SPEC = NetworkSpec("conv2", (1, 8, 8), 10, 0.1, "affine")


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:10")


def test_normalisation_by_hand():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 4)
    for text, (mean, std) in KNOWN.items():
        channels = len(mean)
        wanted = (x[:, :channels] - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(
            1, -1, 1, 1
        )
        assert torch.allclose(normalised(nn.Identity(), text)(x[:, :channels]), wanted, atol=1e-6)
    own = normalised(nn.Identity(), "0.1+0.2+0.3/0.5+1+2")
    assert torch.allclose(own(x)[:, 2], (x[:, 2] - 0.3) / 2, atol=1e-6)
    assert not list(own.parameters())


@pytest.mark.parametrize("text", ["cifar", "0.5", "0.5/0", "0.5+0.5/0.2+0.2+0.2", "a/b", "0.5/-1"])
def test_wrong_normalisations(text):
    with pytest.raises(BadRequest, match="normalize is one of cifar10, cifar100"):
        normalised(nn.Identity(), text)


def test_any_reference_can_be_normalised(ticket_files, digits):
    plain = load_reference(f"ticket:{ticket_files[0]}")
    entry = load_reference(f"ticket:{ticket_files[0]}[normalize=0.1/0.5]")
    x, _ = digits.at(slice(None))
    assert torch.allclose(entry.module(x), plain.module((x - 0.1) / 0.5), atol=1e-5)
    assert entry.digest != plain.digest
    assert entry.info.name.endswith("[normalize=0.1/0.5]")
    assert load_reference(f"ticket:{ticket_files[0]}[normalize=0.1/0.5]").digest == entry.digest
    with pytest.raises(BadRequest, match="members of a switch"):
        load_reference("switch:" + "+".join(map(str, ticket_files)) + "[normalize=half]")


@pytest.mark.parametrize("form", ["pt", "safetensors", "nested", "parallel"])
def test_bare_weights(tmp_path, digits, form):
    torch.manual_seed(0)
    net = build(SPEC).eval()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    state = net.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": state, "best": 0.5}, path)
    else:
        prefix = "module." if form == "parallel" else ""
        torch.save({prefix + name: value for name, value in state.items()}, path)
    entry = load_reference(f"weights:{path}[arch=conv2,width=0.1,norm=affine]", digits)
    x, _ = digits.at(slice(None))
    assert entry.module(x).equal(net(x))
    alone = load_reference(f"weights:{path}[arch=conv2,width=0.1,norm=affine,classes=10,shape=1x8x8]")
    assert alone.module(x).equal(net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "name their network"),
        ("[arch=conv2,width=0.1]", "also has 1.weight, 1.bias, 4.weight, …; choose another arch"),
        (
            "[arch=conv2,width=0.2,norm=affine]",
            r"another shape 0.weight \(6, 1, 3, 3\) for \(13, 1, 3, 3\)",
        ),
        ("[arch=conv4,width=0.1,norm=affine]", "lacks"),
        ("[arch=conv3]", "did you mean 'conv"),
        ("[arch=conv2,width=x]", "width is a number"),
        ("[arch=conv2,width=0.1,norm=affine,shape=8x8]", "shape of an image is missing"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, digits, options, message):
    torch.save(build(SPEC).state_dict(), tmp_path / "w.pt")
    with pytest.raises(BadRequest, match=message):
        load_reference(f"weights:{tmp_path}/w.pt{options}", digits)


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


def test_files_that_are_no_weights(tmp_path, capsys):
    (tmp_path / "trap.pt").write_bytes(pickle.dumps({"w": Trap()}))
    torch.save({"w": Trap()}, tmp_path / "trap2.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("trap.pt", "trap2.pt", "module.pt"):
        with pytest.raises(BadFile, match="loading it would run code; save its state dict alone"):
            read_state_dict(tmp_path / name)
    assert capsys.readouterr().out == ""
    torch.save({"epoch": 1, "lr": 0.1}, tmp_path / "empty.pt")
    with pytest.raises(BadFile, match="holds no state dict, but a dictionary of epoch, lr"):
        read_state_dict(tmp_path / "empty.pt")
    torch.save(build(SPEC).state_dict(), tmp_path / "w.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:-500])
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    for name in ("cut.pt", "cut.safetensors", "gone.pt"):
        with pytest.raises(BadFile, match=r"no whole|no file|damaged"):
            read_state_dict(tmp_path / name)


def test_a_random_start_is_seeded_and_knows_the_classes(digits):
    images = load("digits:test:4")
    text = "torchvision:squeezenet1_1"
    first, again = load_reference(f"{text}[classes=7]"), load_reference(f"{text}[classes=7]")
    other = load_reference(f"{text}[classes=7,seed=1]")
    assert first.digest == again.digest != other.digest
    x = torch.rand(1, 3, 64, 64)
    assert first.module(x).shape == (1, 7)
    assert load_reference(text, images).module(x).shape == (1, 10)
    assert load_reference("timm:resnet10t", images).module(x).shape == (1, 10)
    with pytest.raises(BadRequest, match="number of classes is missing"):
        load_reference(text)
    with pytest.raises(BadRequest, match="did you mean 'resnet18'"):
        load_reference("torchvision:resnet19[classes=10]")
    with pytest.raises(BadRequest, match="no timm network named"):
        load_reference("timm:resnot[classes=10]")
    with pytest.raises(BadRequest, match="no weights of resnet18 named 'IMAGENET'"):
        load_reference("torchvision:resnet18/IMAGENET")


def test_library_weights_where_they_lie(tmp_path, monkeypatch):
    """A file with random weights under the library's own name, normalised as the library says."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(BadFile, match=r"no file .*squeezenet1_1-b8a52dc0.pth; put what https://"):
        load_reference("torchvision:squeezenet1_1/IMAGENET1K_V1")
    torch.manual_seed(0)
    net = models.squeezenet1_1(weights=None).eval()
    (tmp_path / "checkpoints").mkdir()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    entry = load_reference("torchvision:squeezenet1_1/IMAGENET1K_V1")
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in KNOWN["imagenet"])
    assert torch.allclose(entry.module(x), net((x - mean) / std), atol=1e-4)


def test_timm_weights_of_a_file(tmp_path):
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=6).eval()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "t.pth")
    entry = load_reference(f"timm:resnet10t[checkpoint={tmp_path}/t.pth]")
    x = torch.rand(1, 3, 64, 64)
    assert entry.module(x).equal(net(x))


def test_the_bundled_network_reaches_its_accuracy(data_root):
    """About 94 % on CIFAR-10, and nothing under attack."""
    from rstbench.attacks import PGD
    from rstbench.threat import Threat

    entry, images = load_reference("bundled:autoattack-resnet18"), load("cifar10:test:100", data_root)
    assert entry.resumable
    assert load_reference("bundled:autoattack-resnet18").digest == entry.digest
    x, y = images.at(slice(None))
    with torch.no_grad():
        assert (entry.module(x).argmax(1) == y).float().mean() > 0.88
    threat, few = Threat.parse("Linf:8/255"), slice(0, 20)
    adv = PGD(steps=5)(entry.module, x[few], y[few], threat, torch.Generator().manual_seed(0)).images
    with torch.no_grad():
        assert (entry.module(adv).argmax(1) == y[few]).float().mean() <= 0.1


def test_no_other_bundled_network():
    with pytest.raises(BadRequest, match="no bundled model named 'resnet'"):
        load_reference("bundled:resnet")


class Expects(nn.Module):
    """A network that was trained on images normalised to [-1, 1]."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x * 0.5 + 0.5)


def test_a_likely_mistake_is_noticed(lesson):
    from rstbench.tickets.checkpoint import train
    from rstbench.training.recipe import recipe_for

    recipe = recipe_for({"network": "conv2", "width": 0.1, "epochs": 8, "batch": 16, "adversary": "none"})
    inner = train(NetworkSpec("conv2", (1, 8, 8), 10, 0.1), lesson, recipe)[0].module()
    x, y = load("digits:test:100").at(slice(None))
    assert clearly_better(right_under(Expects(inner), x, y)) == "half"
    assert clearly_better(right_under(normalised(Expects(inner), "mnist"), x, y)) == "half"
    assert clearly_better(right_under(normalised(Expects(inner), "half"), x, y)) == ""
    assert clearly_better(right_under(inner, x, y)) == ""


def test_a_zoo_model_of_a_file(tmp_path, monkeypatch):
    """Random weights under a zoo name in RobustBench's model folder: nothing is fetched."""
    from rstbench.models.sources.robustbench import import_robustbench

    zoo = import_robustbench()
    cifar = zoo.model_zoo.enums.BenchmarkDataset.cifar_10
    linf = zoo.model_zoo.enums.ThreatModel.Linf
    torch.manual_seed(0)
    net = zoo.model_zoo.model_dicts[cifar][linf]["Wong2020Fast"]["model"]().eval()
    folder = tmp_path / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "Wong2020Fast.pt")
    monkeypatch.setenv("RSTBENCH_MODELS", str(tmp_path))
    entry = load_reference("robustbench:cifar10/Linf/Wong2020Fast")
    x = torch.rand(2, 3, 32, 32)
    assert entry.module(x).equal(net(x))
    assert not any(parameter.requires_grad for parameter in entry.module.parameters())
    (folder / "Wong2020Fast.pt").write_bytes(b"<html>sign in</html>")
    with pytest.raises(BadFile, match=r"Wong2020Fast.pt does not load"):
        load_reference("robustbench:cifar10/Linf/Wong2020Fast")
    assert (folder / "Wong2020Fast.pt").exists()
    with pytest.raises(BadFile, match=r"Chen2020Adversarial.pt_m0.pt; put the zoo's checkpoint there"):
        load_reference("robustbench:cifar10/Linf/Chen2020Adversarial")
    with pytest.raises(BadFile, match="through timm; add --download"):
        load_reference("robustbench:cifar10/Linf/Debenedetti2022Light_XCiT-S12")


def cached(root, repository, files):
    """Files in the layout of the hub's cache."""
    folder = root / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


def test_timm_networks_of_the_hub(tmp_path, monkeypatch):
    import timm
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=5).eval()
    config = {
        "architecture": "resnet10t", "num_classes": 5,
        "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "tag": "c3_in1k"},
    }  # fmt: skip
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": save(net.state_dict())}
    cached(tmp_path, "timm/resnet10t.c3_in1k", files)
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    wanted = net((x - mean) / std)
    for reference in ("hub:timm/resnet10t.c3_in1k", "timm:resnet10t/c3_in1k"):
        entry = load_reference(reference)
        assert torch.allclose(entry.module(x), wanted, atol=1e-4)
        assert entry.info.name == reference


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, r"no files of a/b in .*models--a--b; --download fetches it"),
        ({}, "holds no readable config.json"),
        ({"config.json": b"[]"}, "holds no readable config.json"),
        ({"config.json": b"{}"}, "holds none of model.safetensors, pytorch_model.bin"),
        ({"config.json": b'{"model_type": "vit"}', "model.safetensors": b"x"}, "is vit, not of timm"),
        ({"config.json": b'{"rstbench": {}}', "model.safetensors": b"x"}, "config.json is damaged"),
        (
            {"config.json": b'{"architecture": "resnot"}', "pytorch_model.bin": b"x"},
            r"is no file of torch.save: it begins with b'x'",
        ),
    ],
)
def test_hub_repositories_that_cannot_be_used(tmp_path, monkeypatch, files, message):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    if files is not None:
        cached(tmp_path, "a/b", files)
    with pytest.raises(BadFile if "is vit" not in message else BadRequest, match=message):
        load_reference("hub:a/b")


def test_hub_names_that_are_none():
    with pytest.raises(BadRequest, match="a hub model reads 'hub:OWNER/REPO'"):
        load_reference("hub:a/b/c")


def graph(net, path, **settings):
    """Written by torch's exporter."""
    torch.onnx.export(
        net.eval(), (torch.rand(2, 1, 8, 8),), path, dynamo=True, verbose=False, external_data=False,
        **{"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},), **settings},
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_onnx_graphs_that_cannot_be_attacked(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.det(x).repeat(1, 2)

    graph(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), tmp_path / "good.onnx", opset_version=20)
    digits = load("digits:test:4")
    assert load_reference(f"onnx:{tmp_path}/good.onnx", digits).module(digits.at(slice(None))[0]).shape == (
        4,
        3,
    )
    graph(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), tmp_path / "two.onnx", dynamic_shapes=None)
    graph(Odd(), tmp_path / "odd.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "good.onnx").read_bytes()[:200])
    for name, message in (
        ("two", "takes 2 images at once only"),
        ("odd", "cannot become a torch module"),
        ("cut", "no whole ONNX file"),
        ("gone", "no file"),
    ):
        with pytest.raises(BadRequest, match=message):
            load_reference(f"onnx:{tmp_path}/{name}.onnx", digits)
    color = load_reference(f"onnx:{tmp_path}/good.onnx")  # the file knows its shape
    assert color.module(torch.rand(1, 1, 8, 8)).shape == (1, 3)


def test_a_normalisation_too_many_is_told(data_root):
    entry = load_reference("bundled:autoattack-resnet18[normalize=cifar10]")
    x, y = load("cifar10:test:60", data_root).at(slice(None))
    assert clearly_better(right_under(entry.module, x, y)) == "none"
    with pytest.raises(BadRequest, match="is for 2 channels, images have 3"):
        load_reference("bundled:autoattack-resnet18[normalize=0.5+0.5/1]", load("cifar10:test:2", data_root))


def test_chance_is_no_reason_for_a_flag():
    """A model at chance on a few images may be better under any of four normalisations."""
    torch.manual_seed(0)
    for _ in range(20):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        right = right_under(net, torch.rand(20, 3, 8, 8), torch.randint(0, 10, (20,)))
        assert clearly_better(right) == ""
