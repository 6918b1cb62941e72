"""Folders with timm's config.json give the networks that timm itself builds from them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from rstbench.errors import BadFile, BadRequest
from rstbench.models.wrapper import load_reference
from tests.known.library_weights import SPREAD, Trap, scattered


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
