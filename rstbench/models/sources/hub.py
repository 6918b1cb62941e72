"""Repositories of the Hugging Face hub, from the local cache or a folder: `hub:OWNER/REPO`, `hub:DIR`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.fx

from ...errors import BadFile, BadRequest, first_line
from ...evidence.trial import ModelInfo
from ...limits import read_text
from ...networks.network import NetworkSpec, build
from ...parsing import parse_json
from ..checkpoints.state_dict import load_matching, read_state_dict
from ..fold import folded
from ..wrapper import EvalModel, wrap
from .input_shape import RGB, checked_input, parse_in_chans, parse_shape
from .timm_folder import EXAMPLE_STATISTICS, TimmRepository

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
EXAMPLE_CONFIG = (
    f'{{"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {{{EXAMPLE_STATISTICS}}}}}'
)


def hub(
    id: str, in_chans: str = "", shape: str | Sequence[int] | None = None, download: bool = False
) -> EvalModel:
    """Load `hub:OWNER/REPO`, or `hub:DIR` for a folder with the same files.

    `config.json` is this tool's (`export --to hub-folder`) or timm's, whose normalisation becomes the first
    layer; in_chans adapts timm's weights to images of other channels by timm's own rule. No code of a
    repository runs. Raises BadFile where the files are missing and `download` is false, BadRequest for other
    kinds of repository.
    """
    folder = Path(id).expanduser() if Path(id).expanduser().is_dir() else _snapshot(id, download)
    config = _config(id, folder)
    names = _weight_files(config)
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise BadFile(f"hub:{id}: {folder} holds none of {', '.join(names)}")
    if "rstbench" in config:
        if in_chans:
            raise BadRequest(f"hub:{id}: in_chans goes with networks of timm, this one is of this tool")
        return _native_model(id, config["rstbench"], file)
    if "architecture" in config:
        return _timm_model(id, config, file, in_chans, shape)
    kind = config.get("model_type", 'an unknown kind (no "architecture" in its config.json)')
    raise BadRequest(
        f"hub:{id} is {kind}, not of timm or this tool; build it in a file of your own: file:PATH.py:factory"
    )


def _config(id: str, folder: Path) -> dict[str, Any]:
    try:
        config = parse_json(read_text(folder / CONFIG))
        assert isinstance(config, dict)
    except (OSError, ValueError, AssertionError):
        raise BadFile(
            f"hub:{id}: {folder} holds no readable {CONFIG}; of a network of timm it is {EXAMPLE_CONFIG}"
        ) from None
    return config


def _weight_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files that may hold the weights, in the order in which timm looks for them."""
    settings = config.get("pretrained_cfg")
    file = (settings if isinstance(settings, dict) else config).get("hf_hub_filename")
    if not isinstance(file, str) or Path(file).name != file:
        return WEIGHTS
    return (str(Path(file).with_suffix(".safetensors")), file, *WEIGHTS)


def _snapshot(id: str, download: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(id, local_files_only=not download, allow_patterns=[CONFIG, *WEIGHTS])
    except HFValidationError:
        raise BadRequest(
            f"a hub model reads 'hub:OWNER/REPO', or names a folder that is there, got 'hub:{id}'"
        ) from None
    except LocalEntryNotFoundError:
        cache = Path(constants.HF_HUB_CACHE) / f"models--{id.replace('/', '--')}"
        helps = "it cannot be fetched" if download else "--download fetches it"
        raise BadFile(f"no files of {id} in {cache}; {helps}, or name a folder: hub:DIR") from None
    except Exception as error:  # of the hub's client while it downloads
        raise BadFile(f"hub:{id} cannot be fetched: {first_line(error)}") from None
    return Path(folder)


def _native_model(id: str, metadata: dict[str, Any], file: Path) -> EvalModel:
    try:
        spec = NetworkSpec.from_dict(metadata["network"])
        remaining = float(metadata["remaining"])
        kept, total = int(metadata["kept_weights"]), int(metadata["total_weights"])
        net = build(spec)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadFile(f"hub:{id}: {CONFIG} is damaged: {error!r}") from None
    if metadata.get("fold"):
        net = folded(torch.fx.symbolic_trace(net.eval()))
    module = load_matching(net, read_state_dict(file), f"hub:{id}")
    return wrap(module, ModelInfo(f"hub:{id}", "external", "", str(spec), remaining, kept, total), made_by=id)


def _timm_model(
    id: str, config: dict[str, Any], file: Path, in_chans: str, shape: str | Sequence[int] | None
) -> EvalModel:
    what = f"hub:{id}"
    state = read_state_dict(file)
    repository, channels = TimmRepository.from_config(config, what), parse_in_chans(in_chans, what)
    module, flags = repository.network(state, what, channels)
    name = f"{what}[in_chans={channels}]" if channels else what
    takes, adaptable = channels or repository.channels, repository.channels == RGB
    module = checked_input(module, parse_shape(shape, what), takes, adaptable=adaptable)
    made_by = f"{id}|{channels}" if channels else id
    return wrap(module, ModelInfo(name, "external", flags=flags), made_by=made_by)
