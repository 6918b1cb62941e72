"""Networks of torchvision and timm, with local weights or a seeded random start."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import BadFile, BadRequest, unknown
from ...evidence.trial import ModelInfo
from ...flags import CHANNELS_ADAPTED
from ...networks.normalise import normalisation_layer
from ..wrapper import EvalModel, wrap
from .hub import hub
from .input_shape import (
    RGB,
    adapt_channels,
    checked_input,
    input_channels,
    parse_in_chans,
    parse_shape,
    replace_first_convolution,
)
from .options import positive_int
from .torchvision_files import file_name, pretrained
from .weights import timm_checkpoint_model


def torchvision(
    id: str,
    classes: str | int = "",
    seed: str | int = 0,
    in_chans: str = "",
    shape: str | Sequence[int] | None = None,
    download: bool = False,
) -> EvalModel:
    """Load `torchvision:resnet50/IMAGENET1K_V2`, or a random start, `torchvision:resnet18[classes=10]`.

    The library's weights are read where torch.hub keeps them, and come behind their own normalisation.
    in_chans: channels of an image where they are not three; a random start gets another first convolution,
    the library's weights are adapted by timm's rule (see `adapt_channels`) and flagged.
    """
    from torchvision import models

    name, slash, weights = id.partition("/")
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision network", name, known)
    text = f"torchvision:{id}"
    channels, size = parse_in_chans(in_chans, text) or RGB, parse_shape(shape, text)
    if not slash:
        build = partial(models.get_model, name, weights=None)
        if channels != RGB:
            build = partial(_with_channels, build, channels)
        return _random_start(build, text, classes, seed, in_chans, size)
    enum = models.get_model_weights(name)
    if weights not in enum.__members__:
        raise unknown(f"weights of {name}", weights, enum.__members__)
    chosen = enum[weights]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name(chosen)
    if not path.is_file():
        if not download:
            raise BadFile(f"no file {path}; put what {chosen.url} gives there, or add --download")
        _fetch(chosen.url, path)
    module, presets = pretrained(name, chosen, path, text), chosen.transforms()
    mean, std, made_by = tuple(presets.mean), tuple(presets.std), id
    adaptable = not getattr(module, "transform_input", False)
    if channels != RGB:
        module = adapt_channels(module, channels, text)
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
        made_by, text = f"{id}|{channels}", f"{text}[in_chans={channels}]"
    module = nn.Sequential(normalisation_layer(mean, std), module).eval()
    module = checked_input(module, size, channels, adaptable=adaptable)
    flags = (CHANNELS_ADAPTED.name,) if channels != RGB else ()
    return wrap(module, ModelInfo(text, "external", flags=flags), made_by=made_by)


def timm(
    id: str,
    classes: str | int = "",
    seed: str | int = 0,
    checkpoint: str = "",
    in_chans: str = "",
    shape: str | Sequence[int] | None = None,
    download: bool = False,
    **selection: str,
) -> EvalModel:
    """Load `timm:NAME/TAG`, `timm:NAME[checkpoint=FILE]`, or a random start, `timm:NAME[classes=10,seed=0]`.

    NAME/TAG is the hub's `timm/NAME.TAG`; with a file, key=, prefix= and without= are those of `weights:`.
    in_chans: channels of an image where they are not the network's own.
    """
    import timm as library

    if selection and (not checkpoint or "/" in id):
        raise BadRequest(f"timm:{id}: {', '.join(selection)} goes with NAME[checkpoint=FILE]")
    if "/" in id:
        repository = f"timm/{id.replace('/', '.', 1)}"
        model = hub(repository, in_chans, shape, download)
        name = model.info.name.replace(f"hub:{repository}", f"timm:{id}")
        return replace(model, info=replace(model.info, name=name))

    if id not in library.list_models():
        raise unknown("timm network", id, library.list_models())
    build, text = partial(library.create_model, id, pretrained=False), f"timm:{id}"
    if channels := parse_in_chans(in_chans, text):
        build = partial(build, in_chans=channels)
    if checkpoint:
        return timm_checkpoint_model(build, id, checkpoint, classes, in_chans, shape, **selection)
    return _random_start(build, text, classes, seed, in_chans, parse_shape(shape, text))


def _fetch(url: str, path: Path) -> None:
    """Download a file of torchvision's server to where torch.hub keeps it; its name ends in its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError) as error:
        raise BadFile(f"{url} cannot be fetched: {error}") from None


def _random_start(
    build: Callable[..., nn.Module],
    text: str,
    classes: str | int,
    seed: str | int,
    in_chans: str,
    shape: tuple[int, int, int] | None,
) -> EvalModel:
    if not str(seed).isdigit():
        raise BadRequest(f"seed is a whole number from 0, got {seed!r}")
    count = positive_int(classes, "classes", f"{text} has no weights")
    with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(int(seed))
        module = build(num_classes=count).requires_grad_(False).eval()
    module = checked_input(module, shape, input_channels(module, in_chans))
    options = f"in_chans={in_chans},seed={seed}" if in_chans else f"seed={seed}"
    made_by = f"{text}|{seed}|{in_chans}" if in_chans else f"{text}|{seed}"
    return wrap(module, ModelInfo(f"{text}[{options}]", "external"), made_by=made_by)


def _with_channels(build: Callable[..., nn.Module], channels: int, **settings: Any) -> nn.Module:
    """Build a network whose first convolution, started as torch does, takes images of other channels."""
    net = build(**settings)
    replace_first_convolution(net, channels)
    return net
