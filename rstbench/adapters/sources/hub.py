"""Repositories of the Hugging Face hub: `hub:OWNER/REPO`, from its cache on this machine, or a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.fx
from torch import nn

from ...errors import BadFile, BadRequest
from ...harness.trial import Card
from ...tickets.networks import NetworkSpec, build
from ...tickets.networks.normalise import layer
from ..entry import Entry, enter
from ..fold import folded
from ..state import put_state, read_state

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def hub(id: str, download: bool = False) -> Entry:
    """`hub:OWNER/REPO`, or `hub:DIR` for a folder with the same files.

    Two kinds of `config.json` are known: this tool's (`export --to hub-folder`), and timm's, whose
    normalisation becomes the first layer. No code of a repository runs. Raises BadFile where the files are
    not there and `download` is false, and BadRequest for other kinds.
    """
    folder = Path(id).expanduser() if Path(id).expanduser().is_dir() else _snapshot(id, download)
    try:
        config = json.loads((folder / CONFIG).read_text())
        assert isinstance(config, dict)
    except (OSError, ValueError, AssertionError):
        raise BadFile(f"hub:{id}: {folder} holds no readable {CONFIG}") from None
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise BadFile(f"hub:{id}: {folder} holds none of {', '.join(WEIGHTS)}")
    if "rstbench" in config:
        return _own(id, config["rstbench"], file)
    if "architecture" in config:
        return enter(_timm(id, config, file), Card(f"hub:{id}", "external"), made_by=id)
    kind = config.get("model_type", "an unknown kind")
    raise BadRequest(
        f"hub:{id} is {kind}, not of timm or this tool; build it in a file of your own: file:PATH.py:factory"
    )


def _snapshot(id: str, download: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(id, local_files_only=not download, allow_patterns=[CONFIG, *WEIGHTS])
    except HFValidationError:
        raise BadRequest(f"a hub model reads 'hub:OWNER/REPO', got 'hub:{id}'") from None
    except LocalEntryNotFoundError:
        place = Path(constants.HF_HUB_CACHE) / f"models--{id.replace('/', '--')}"
        what = "it cannot be fetched" if download else "--download fetches it"
        raise BadFile(f"no files of {id} in {place}; {what}, or name a folder: hub:DIR") from None
    except Exception as error:  # of the hub's client while it downloads
        raise BadFile(f"hub:{id} cannot be fetched: {str(error).splitlines()[0]}") from None
    return Path(found)


def _own(id: str, about: dict[str, Any], file: Path) -> Entry:
    try:
        plain = about["network"]
        spec = NetworkSpec(**{**plain, "shape": tuple(plain["shape"])})
        remaining = float(about["remaining"])
        kept, total = int(about["kept_weights"]), int(about["total_weights"])
        net = build(spec)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadFile(f"hub:{id}: {CONFIG} is damaged: {error!r}") from None
    if about.get("fold"):
        net = folded(torch.fx.symbolic_trace(net.eval()))
    module = put_state(net, read_state(file), f"hub:{id}")
    return enter(module, Card(f"hub:{id}", "external", "", str(spec), remaining, kept, total), made_by=id)


def _timm(id: str, config: dict[str, Any], file: Path) -> nn.Module:
    import timm

    name, settings = config["architecture"], config.get("pretrained_cfg") or {}
    state = read_state(file)
    try:
        net = timm.create_model(
            name, pretrained=False, num_classes=int(config["num_classes"]), **config.get("model_args", {})
        )
        mean, std = tuple(settings["mean"]), tuple(settings["std"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise BadFile(f"hub:{id}: {CONFIG} does not describe a network of timm: {error!r}") from None
    return nn.Sequential(layer(mean, std), put_state(net, state, f"hub:{id}")).eval()
