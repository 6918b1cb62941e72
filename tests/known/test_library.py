"""Networks of torchvision and timm against the libraries' own builders, on random weights."""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.sources.torchvision_files import library_module
from rstbench.models.wrapper import load_reference

SPREAD = 1e-3  # of the largest logit


@pytest.fixture
def hub_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def scattered(net, seed=0):
    """The network with random weights and statistics, under which no layer is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() > 1:
                reach = math.sqrt(3 / max(1, tensor[0].numel()))
                tensor.uniform_(-reach, reach, generator=generator)
            else:
                tensor.uniform_(0.5, 1.0, generator=generator)
    return net.eval()


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


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


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


def repository(folder, name, settings=None, *, head=None, file="model.safetensors", build=None):
    """A folder of timm's, written by timm itself, with random weights; returns the network."""
    import timm
    from timm.models._hub import save_config_for_hf

    net = scattered(timm.create_model(name, **(build or {}))).requires_grad_(False)
    folder.mkdir(exist_ok=True)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save(state, folder / file)
    save_config_for_hf(net, folder / "config.json", model_config=head, model_args=build)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= settings or {}
    (folder / "config.json").write_text(json.dumps(config))
    return net


def timms_own(folder, monkeypatch):
    """What timm makes of the folder, by its own reading of a repository."""
    import timm
    from timm.models import _hub

    class AbsentError(Exception):
        pass

    def lies(repo_id, filename, **_):
        if not (folder / filename).is_file():
            raise AbsentError
        return str(folder / filename)

    # What timm takes from the hub's client; it knows older clients than the one that is installed.
    monkeypatch.setattr(_hub, "hf_hub_download", lies, raising=False)
    monkeypatch.setattr(_hub, "EntryNotFoundError", AbsentError, raising=False)
    monkeypatch.setattr(_hub, "_has_hf_hub", True)
    return timm.create_model("hf-hub:a/b", pretrained=True).eval()


def agrees_with_timm(folder, monkeypatch, size, channels=3):
    library = timms_own(folder, monkeypatch)
    x = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(library.pretrained_cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted, found = library((x - mean) / std), load_reference(f"hub:{folder}").module(x)
    assert wanted.isfinite().all()
    assert float(wanted.std(0).max()) > 0
    assert float((wanted - found).abs().max()) <= SPREAD * float(wanted.abs().max())


SMALL = {"num_classes": 10}
FAMILIES = [
    ("resnet10t", SMALL, 64, "model.safetensors"),
    ("resnet10t", SMALL, 64, "pytorch_model.bin"),
    ("vit_tiny_patch16_224", {**SMALL, "img_size": 64, "global_pool": "avg", "class_token": False}, 64,
     "model.safetensors"),
    ("convnext_atto", SMALL, 64, "model.safetensors"),
    ("mobilenetv3_small_050", {**SMALL, "in_chans": 1}, 64, "pytorch_model.bin"),
    ("tf_efficientnet_b0", SMALL, 64, "model.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "build", "size", "file"), FAMILIES)
def test_timm_folders_are_timms_own(tmp_path, monkeypatch, name, build, size, file):
    grey = {"input_size": [1, 64, 64], "mean": [0.4], "std": [0.2]} if "in_chans" in build else {}
    repository(tmp_path / "r", name, grey, file=file, build=build)
    agrees_with_timm(tmp_path / "r", monkeypatch, size, build.get("in_chans", 3))


def test_weights_that_timm_renames(tmp_path, monkeypatch):
    """ConvNeXt's files as its authors published them have other names, which timm's filter knows."""
    repository(tmp_path / "r", "convnext_atto", build=SMALL)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "r" / "model.safetensors")
    theirs = {}
    for name, value in state.items():
        name = (
            name.replace("stem.", "downsample_layers.0.")
            .replace("head.norm.", "norm.")
            .replace("head.fc.", "head.")
        )
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "downsample":
            parts = ["downsample_layers", *parts[1:2], *parts[3:]]
        if parts[0] == "stages" and parts[2] == "blocks":
            parts = [*parts[:2], *parts[3:]]
        name = (
            ".".join(parts)
            .replace("conv_dw", "dwconv")
            .replace("mlp.fc1", "pwconv1")
            .replace("mlp.fc2", "pwconv2")
        )
        theirs[name] = value
    save_file(theirs, tmp_path / "r" / "model.safetensors")
    agrees_with_timm(tmp_path / "r", monkeypatch, 64)


@pytest.mark.parametrize(
    ("name", "prefix"), [("resnet10t", "module."), ("mobilenetv3_small_050", "_orig_mod.model.")]
)
def test_wrapped_weights_of_a_folder(tmp_path, name, prefix):
    """A folder written from a wrapped network is the network's."""
    repository(tmp_path / "r", name, {"mean": [0.5] * 3, "std": [0.25] * 3}, build=SMALL)
    plain = load_reference(f"hub:{tmp_path}/r").module
    from safetensors.torch import load_file

    state = load_file(tmp_path / "r" / "model.safetensors")
    save_file({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "r" / "model.safetensors")
    found, x = load_reference(f"hub:{tmp_path}/r").module, torch.rand(2, 3, 64, 64)
    assert found(x).equal(plain(x))
    lacking = {f"{prefix}{key}": value for key, value in state.items() if not key.endswith("bias")}
    save_file(lacking, tmp_path / "r" / "model.safetensors")
    with pytest.raises(BadFile, match=r"Missing key|lacks"):
        load_reference(f"hub:{tmp_path}/r")


def test_a_background_class_is_cut_off(tmp_path, monkeypatch):
    repository(tmp_path / "r", "resnet10t", {"label_offset": 1, "num_classes": 9}, build={"num_classes": 10})
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    config["num_classes"], config["model_args"] = 9, {}
    (tmp_path / "r" / "config.json").write_text(json.dumps(config))
    agrees_with_timm(tmp_path / "r", monkeypatch, 64)
    assert load_reference(f"hub:{tmp_path}/r").module(torch.rand(1, 3, 64, 64)).shape == (1, 9)


def test_the_old_form_of_a_configuration(tmp_path, monkeypatch):
    """timm moves a flat file into `pretrained_cfg`."""
    repository(tmp_path / "r", "resnet10t", build=SMALL)
    flat = {"architecture": "resnet10t", "num_classes": 10, "num_features": 512, "input_size": [3, 32, 32],
            "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "first_conv": "conv1.0", "classifier": "fc",
            "labels": ["a"] * 10}  # fmt: skip
    (tmp_path / "r" / "config.json").write_text(json.dumps(flat))
    agrees_with_timm(tmp_path / "r", monkeypatch, 64)
    again = load_reference(f"hub:{tmp_path}/r")
    assert again.resumable
    assert again.digest == load_reference(f"hub:{tmp_path}/r").digest


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": None}, r'config.json has no mean, .*write it there, such as "mean": \[0.485'),
        ({"mean": [0.5, 0.5]}, "mean in config.json has 2 numbers, the network 3 channels"),
        ({"std": "0.5"}, "std in config.json is a list of numbers"),
        ({"mean": [123.7, 116.3, 103.5]}, r"are of pixels in \[0, 1\]"),
        ({"std": [0, 0, 0]}, r"are of pixels in \[0, 1\]"),
        ({"num_classes": 0}, "num_classes in config.json is a whole number from 1, got 0"),
        ({"num_classes": "10"}, "num_classes in config.json is a whole number from 1, got '10'"),
        ({"input_size": [32, 32]}, r"input_size in config.json is \[channels, height, width\], got"),
        ({"num_classes": 12}, r"the file lacks fc.weight, fc.bias|size mismatch"),
        ({"model_args": {"num_classes": 7}}, r"the file lacks fc.weight, fc.bias; timm would go on"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, "may not hold checkpoint_path"),
        ({"model_args": {"width": 3}}, "timm cannot build resnet10t from it"),
        ({"model_args": 3}, "is no configuration of timm"),
        ({"architecture": "hf-hub:other/repository"}, "no timm network"),
        ({"architecture": "resnet11t"}, "did you mean 'resnet"),
        ({"global_pool": "max"}, r"says global_pool 'max', timm builds 'avg' from it; write \"model_args\""),
        ({"pretrained_cfg": [1]}, "is no configuration of timm"),
    ],
)
def test_timm_folders_that_are_refused(tmp_path, changed, message):
    repository(tmp_path / "r", "resnet10t", build=SMALL)
    file = tmp_path / "r" / "config.json"
    config = json.loads(file.read_text())
    config.pop("model_args", None)
    for key, value in changed.items():
        place = config["pretrained_cfg"] if key in ("mean", "std", "input_size") else config
        place[key] = value
    file.write_text(json.dumps(config))
    with pytest.raises(BadRequest, match=message) as refused:
        load_reference(f"hub:{tmp_path}/r")
    assert "\n" not in str(refused.value)


def test_four_channels_of_a_folder_stay(tmp_path):
    """timm takes weights for four channels for ones of three, and would leave the first layer at random."""
    settings = {"input_size": [4, 64, 64], "mean": [0.1, 0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7, 0.8]}
    net = repository(tmp_path / "r", "resnet10t", settings, build={**SMALL, "in_chans": 4})
    x = torch.rand(2, 4, 64, 64)
    mean, std = (torch.tensor(settings[key]).view(1, 4, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(
        load_reference(f"hub:{tmp_path}/r").module(x), net((x - mean) / std), rtol=1e-3, atol=1e-2
    )
    with pytest.raises(BadRequest, match="is for 4 channels; only weights for 3"):
        load_reference(f"hub:{tmp_path}/r[in_chans=1]")


def test_timm_carries_a_folder_over_to_grey_images(tmp_path):
    net = repository(tmp_path / "r", "resnet10t", {"mean": [0.5, 0.4, 0.3], "std": [0.5] * 3}, build=SMALL)
    entry = load_reference(f"hub:{tmp_path}/r[in_chans=1]")
    x = torch.rand(2, 1, 64, 64)
    wanted = net(((x - 0.4) / 0.5).expand(2, 3, 64, 64))
    assert torch.allclose(entry.module(x), wanted, atol=1e-3 * float(wanted.abs().max()))
    assert entry.info.flags == ("channels-adapted",)


def test_a_repository_runs_no_code(tmp_path, capsys):
    repository(tmp_path / "r", "resnet10t", file="pytorch_model.bin", build=SMALL)
    torch.save({"fc.weight": Trap()}, tmp_path / "r" / "pytorch_model.bin")
    with pytest.raises(BadFile, match="would run code"):
        load_reference(f"hub:{tmp_path}/r")
    assert capsys.readouterr().out == ""


def _small():
    import timm

    seen = set()
    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__
        if module not in seen:
            seen.add(module)
            yield name


@pytest.mark.slow
def test_one_network_of_each_of_timms_families(tmp_path, monkeypatch):
    """The first and smallest-named of each file of timm, at its own size."""
    import timm

    compared = 0
    for name in _small():
        with torch.device("meta"):
            try:
                net = timm.create_model(name, num_classes=10)
            except Exception:
                continue  # one that cannot be built without data
        size, count = net.pretrained_cfg["input_size"], sum(p.numel() for p in net.parameters())
        if count > 3e7 or size[-1] > 300:
            continue
        folder = tmp_path / name
        # In the network's order, by which some of timm's filters go.
        repository(folder, name, file="pytorch_model.bin", build=SMALL)
        agrees_with_timm(folder, monkeypatch, size[-1])
        compared += 1
        (folder / "pytorch_model.bin").unlink()
    assert compared > 20


def test_the_file_is_read_as_images_are_normalised(hub_dir):
    """The presets of the weights, not ImageNet's numbers by heart."""
    chosen = own_file(hub_dir, "squeezenet1_1", "IMAGENET1K_V1")
    first = load_reference("torchvision:squeezenet1_1/IMAGENET1K_V1").module[0]
    assert isinstance(first, nn.Module)
    assert torch.allclose(first(torch.tensor(chosen.transforms().mean).view(1, 3, 1, 1)), torch.zeros(1))
