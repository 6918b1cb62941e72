"""Models from elsewhere: normalisation, bare weights, library networks, what comes with packages."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.checkpoints.state_dict import read_state_dict
from rstbench.models.normalise import KNOWN
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build

SPEC = NetworkSpec("conv2", (1, 8, 8), 10, 0.1, "affine")


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:10")


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
        ("[arch=conv2,width=0.1,norm=affine,shape=8x8]", "shape reads channels x height x width"),
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
    with pytest.raises(BadRequest, match="has no weights: classes is missing; add classes=10"):
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
