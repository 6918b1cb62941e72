"""Repositories of the Hugging Face hub, read from its cache."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from rstbench.errors import BadFile, BadRequest
from rstbench.models.wrapper import load_reference


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
