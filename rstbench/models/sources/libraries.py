"""Networks of torchvision and timm: with weights that lie on this machine, or with a seeded random start."""

from __future__ import annotations

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
    channels,
    convolution,
    first_convolution,
    fitting,
    image_shape,
    rechanneled,
    takes,
)
from .torchvision_files import file_name, hushed, pretrained
from .weights import timm_checkpoint


def torchvision(
    id: str,
    classes: str | int = "",
    seed: str | int = 0,
    in_chans: str = "",
    shape: str | Sequence[int] | None = None,
    download: bool = False,
) -> EvalModel:
    """`torchvision:resnet18[classes=10,seed=0]`: a random start; `torchvision:resnet50/IMAGENET1K_V2`: the
    library's weights where torch.hub keeps them, behind their own normalisation.

    in_chans: channels of an image where they are not three. A random start gets another first convolution;
    the library's weights are carried over by timm's rule (see `rechanneled`), and flagged.
    """
    from torchvision import models

    name, slash, weights = id.partition("/")
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision network", name, known)
    text = f"torchvision:{id}"
    wanted, size = channels(in_chans, text) or RGB, image_shape(shape, text)
    if not slash:
        build = partial(models.get_model, name, weights=None)
        if wanted != RGB:
            build = partial(_other_channels, build, wanted)
        return _random(build, text, classes, seed, in_chans, size)
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
    shifts = getattr(module, "transform_input", False)
    if wanted != RGB:
        module = rechanneled(module, wanted, text)
        mean, std = (sum(mean) / len(mean),) * wanted, (sum(std) / len(std),) * wanted
        made_by, text = f"{id}|{wanted}", f"{text}[in_chans={wanted}]"
    whole = fitting(
        nn.Sequential(normalisation_layer(mean, std), module).eval(), size, wanted, option=not shifts
    )
    flags = (CHANNELS_ADAPTED.name,) if wanted != RGB else ()
    return wrap(whole, ModelInfo(text, "external", flags=flags), made_by=made_by)


def timm(
    id: str,
    classes: str | int = "",
    seed: str | int = 0,
    checkpoint: str = "",
    in_chans: str = "",
    shape: str | Sequence[int] | None = None,
    download: bool = False,
    **within: str,
) -> EvalModel:
    """`timm:NAME[classes=10,seed=0]`: a random start; `[checkpoint=FILE]`: with the weights of a file, key=,
    prefix= and without= as for `weights:`; `timm:NAME/TAG`: the library's weights, which are the hub's
    `timm/NAME.TAG`. in_chans: channels of an image where they are not the network's own."""
    import timm as library

    if within and (not checkpoint or "/" in id):
        raise BadRequest(f"timm:{id}: {', '.join(within)} goes with NAME[checkpoint=FILE]")
    if "/" in id:
        name, _, tag = id.partition("/")
        entry = hub(f"timm/{name}.{tag}", in_chans, shape, download)
        named = entry.card.name.replace(f"hub:timm/{name}.{tag}", f"timm:{id}")
        return replace(entry, card=replace(entry.card, name=named))

    if id not in library.list_models():
        raise unknown("timm network", id, library.list_models())
    build, text = partial(library.create_model, id, pretrained=False), f"timm:{id}"
    if wanted := channels(in_chans, text):
        build = partial(build, in_chans=wanted)
    if checkpoint:
        return timm_checkpoint(build, id, checkpoint, classes, in_chans, shape, **within)
    return _random(build, text, classes, seed, in_chans, image_shape(shape, text))


def _fetch(url: str, path: Path) -> None:
    """Puts a file of torchvision's server where torch.hub keeps it; its name ends in its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError) as error:
        raise BadFile(f"{url} cannot be fetched: {error}") from None


def _random(
    build: Callable[..., nn.Module],
    text: str,
    classes: str | int,
    seed: str | int,
    in_chans: str,
    shape: tuple[int, int, int] | None,
) -> EvalModel:
    if not str(seed).isdigit():
        raise BadRequest(f"seed is a whole number from 0, got {seed!r}")
    count = _classes(classes, text)
    with torch.random.fork_rng(), hushed():
        torch.manual_seed(int(seed))
        module = build(num_classes=count).requires_grad_(False).eval()
    module = fitting(module, shape, takes(module, in_chans))
    options = f"in_chans={in_chans},seed={seed}" if in_chans else f"seed={seed}"
    made_by = f"{text}|{seed}|{in_chans}" if in_chans else f"{text}|{seed}"
    return wrap(module, ModelInfo(f"{text}[{options}]", "external"), made_by=made_by)


def _other_channels(build: Callable[..., nn.Module], wanted: int, **settings: Any) -> nn.Module:
    """A network whose first convolution takes images of other channels; its start is torch's default."""
    net = build(**settings)
    found = first_convolution(net)
    assert found is not None  # every classifier of torchvision begins with one
    net.set_submodule(found[0], convolution(found[1], wanted))
    return net


def _classes(classes: str | int, text: str) -> int:
    if not str(classes).isdigit() or int(classes) == 0:
        given = f", got {classes!r}" if classes else ""
        raise BadRequest(f"{text} has no weights: its number of classes is missing, [classes=10]{given}")
    return int(classes)
