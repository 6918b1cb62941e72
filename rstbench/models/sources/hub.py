"""Repositories of the Hugging Face hub: `hub:OWNER/REPO`, from its cache on this machine, or a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.fx

from ...errors import BadFile, BadRequest
from ...evidence.trial import ModelInfo
from ...networks.network import NetworkSpec, build
from ..checkpoints.state_dict import put_state, read_state
from ..fold import folded
from ..wrapper import EvalModel, wrap
from .input_shape import channels, fitting, image_shape
from .timm_folder import LACKS, Repository

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
WRITE = f'{{"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {{{LACKS}}}}}'


def hub(
    id: str, in_chans: str = "", shape: str | Sequence[int] | None = None, download: bool = False
) -> EvalModel:
    """`hub:OWNER/REPO`, or `hub:DIR` for a folder with the same files.

    Two kinds of `config.json` are known: this tool's (`export --to hub-folder`), and timm's, whose
    normalisation becomes the first layer; in_chans carries timm's weights over to images of other channels,
    by its own rule. No code of a repository runs. Raises BadFile where the files are not there and `download`
    is false, and BadRequest for other kinds.
    """
    folder = Path(id).expanduser() if Path(id).expanduser().is_dir() else _snapshot(id, download)
    config = _config(id, folder)
    file = next((folder / name for name in _weights_of(config) if (folder / name).is_file()), None)
    if file is None:
        raise BadFile(f"hub:{id}: {folder} holds none of {', '.join(_weights_of(config))}")
    if "rstbench" in config:
        if in_chans:
            raise BadRequest(f"hub:{id}: in_chans goes with networks of timm, this one is of this tool")
        return _own(id, config["rstbench"], file)
    if "architecture" in config:
        return _timm(id, config, file, in_chans, shape)
    kind = config.get("model_type", 'an unknown kind (no "architecture" in its config.json)')
    raise BadRequest(
        f"hub:{id} is {kind}, not of timm or this tool; build it in a file of your own: file:PATH.py:factory"
    )


def _config(id: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
        assert isinstance(config, dict)
    except (OSError, ValueError, AssertionError):
        raise BadFile(
            f"hub:{id}: {folder} holds no readable {CONFIG}; of a network of timm it is {WRITE}"
        ) from None
    return config


def _weights_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that may hold the weights, in the order in which timm looks for them."""
    held = config.get("pretrained_cfg")
    named = (held if isinstance(held, dict) else config).get("hf_hub_filename")
    if not isinstance(named, str) or Path(named).name != named:
        return WEIGHTS
    return (str(Path(named).with_suffix(".safetensors")), named, *WEIGHTS)


def _snapshot(id: str, download: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(id, local_files_only=not download, allow_patterns=[CONFIG, *WEIGHTS])
    except HFValidationError:
        raise BadRequest(
            f"a hub model reads 'hub:OWNER/REPO', or names a folder that is there, got 'hub:{id}'"
        ) from None
    except LocalEntryNotFoundError:
        place = Path(constants.HF_HUB_CACHE) / f"models--{id.replace('/', '--')}"
        what = "it cannot be fetched" if download else "--download fetches it"
        raise BadFile(f"no files of {id} in {place}; {what}, or name a folder: hub:DIR") from None
    except Exception as error:  # of the hub's client while it downloads
        raise BadFile(f"hub:{id} cannot be fetched: {str(error).splitlines()[0]}") from None
    return Path(found)


def _own(id: str, about: dict[str, Any], file: Path) -> EvalModel:
    try:
        spec = NetworkSpec.of(about["network"])
        remaining = float(about["remaining"])
        kept, total = int(about["kept_weights"]), int(about["total_weights"])
        net = build(spec)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadFile(f"hub:{id}: {CONFIG} is damaged: {error!r}") from None
    if about.get("fold"):
        net = folded(torch.fx.symbolic_trace(net.eval()))
    module = put_state(net, read_state(file), f"hub:{id}")
    return wrap(module, ModelInfo(f"hub:{id}", "external", "", str(spec), remaining, kept, total), made_by=id)


def _timm(
    id: str, config: dict[str, Any], file: Path, in_chans: str, shape: str | Sequence[int] | None
) -> EvalModel:
    what = f"hub:{id}"
    state = read_state(file)
    repository, wanted = Repository.of(config, what), channels(in_chans, what)
    module, flags = repository.network(state, what, wanted)
    name = f"{what}[in_chans={wanted}]" if wanted else what
    takes = wanted or repository.channels
    module = fitting(module, image_shape(shape, what), takes, option=repository.channels == 3)
    made_by = f"{id}|{wanted}" if wanted else id
    return wrap(module, ModelInfo(name, "external", flags=flags), made_by=made_by)
