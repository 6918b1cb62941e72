"""Networks of torchvision and timm: with weights that lie on this machine, or with a seeded random start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ...errors import BadFile, BadRequest, unknown
from ...harness.trial import Card
from ...tickets.networks.normalise import layer
from ..entry import Entry, enter
from ..state import put_state, read_state
from .hub import hub
from .weights import timm_checkpoint


def torchvision(id: str, classes: str | int = "", seed: str | int = 0, download: bool = False) -> Entry:
    """`torchvision:resnet18[classes=10,seed=0]`: a random start; `torchvision:resnet50/IMAGENET1K_V2`: the
    library's weights where torch.hub keeps them, behind their own normalisation."""
    from torchvision import models

    name, slash, weights = id.partition("/")
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision network", name, known)
    text = f"torchvision:{id}"
    if not slash:
        return _random(partial(models.get_model, name, weights=None), text, classes, seed)
    enum = models.get_model_weights(name)
    if weights not in enum.__members__:
        raise unknown(f"weights of {name}", weights, enum.__members__)
    chosen = enum[weights]
    path = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
    if not path.is_file():
        if not download:
            raise BadFile(f"no file {path}; put what {chosen.url} gives there, or add --download")
        _fetch(chosen.url, path)
    module = put_state(models.get_model(name, weights=None), read_state(path), text)
    presets = chosen.transforms()
    first = layer(tuple(presets.mean), tuple(presets.std))
    return enter(nn.Sequential(first, module).eval(), Card(text, "external"), made_by=id)


def timm(
    id: str,
    classes: str | int = "",
    seed: str | int = 0,
    checkpoint: str = "",
    download: bool = False,
    **within: str,
) -> Entry:
    """`timm:NAME[classes=10,seed=0]`: a random start; `[checkpoint=FILE]`: with the weights of a file, key=,
    prefix= and without= as for `weights:`; `timm:NAME/TAG`: the library's weights, which are the hub's
    `timm/NAME.TAG`."""
    import timm as library

    if within and (not checkpoint or "/" in id):
        raise BadRequest(f"timm:{id}: {', '.join(within)} goes with NAME[checkpoint=FILE]")
    if "/" in id:
        name, _, tag = id.partition("/")
        entry = hub(f"timm/{name}.{tag}", download)
        return replace(entry, card=replace(entry.card, name=f"timm:{id}"))

    if id not in library.list_models():
        raise unknown("timm network", id, library.list_models())
    build, text = partial(library.create_model, id, pretrained=False), f"timm:{id}"
    if checkpoint:
        return timm_checkpoint(build, id, checkpoint, classes, **within)
    return _random(build, text, classes, seed)


def _fetch(url: str, path: Path) -> None:
    """Puts a file of torchvision's server where torch.hub keeps it; its name ends in its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError) as error:
        raise BadFile(f"{url} cannot be fetched: {error}") from None


def _random(build: Callable[..., nn.Module], text: str, classes: str | int, seed: str | int) -> Entry:
    if not str(seed).isdigit():
        raise BadRequest(f"seed is a whole number from 0, got {seed!r}")
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        module = build(num_classes=_classes(classes, text)).requires_grad_(False).eval()
    return enter(module, Card(f"{text}[seed={seed}]", "external"), made_by=f"{text}|{seed}")


def _classes(classes: str | int, text: str) -> int:
    if not str(classes).isdigit() or int(classes) == 0:
        given = f", got {classes!r}" if classes else ""
        raise BadRequest(f"{text} has no weights: its number of classes is missing, [classes=10]{given}")
    return int(classes)
