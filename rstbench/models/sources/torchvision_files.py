"""Load torchvision's own weight files into networks that torchvision's own builder makes for them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import BadRequest, one_line
from ...evidence.trial import ModelInfo
from ...flags import CHANNELS_ADAPTED
from ..checkpoints.layer_names import OWN, NamingScheme
from ..checkpoints.state_dict import read_state_dict
from ..normalise import normalised
from ..wrapper import EvalModel, wrap
from .input_shape import RGB, adapt_channels, checked_input, parse_in_chans, parse_shape

# Options with which a file under the library's own name is still the library's file.
LIBRARY_FILE_OPTIONS = {"arch", "normalize", "in_chans"}


def library_module(arch: str, path: Path) -> nn.Module | None:
    """Build `torchvision:NAME` with a file of the library's own, None for files of other names.

    torchvision ties settings to its weights: without them a googlenet would lose `transform_input`, and a
    vision transformer its image size. Raises BadRequest where the file is not what its name says.
    """
    weights = _weights_of_file(arch, path)
    return pretrained(arch.partition(":")[2], weights, path, f"{arch}/{weights.name}") if weights else None


def library_model(
    path: Path, text: str, given: Mapping[str, str], classes: str | int, shape: str | Sequence[int] | None
) -> EvalModel | None:
    """Wrap `library_module` for images of a shape; None for other files and with options for a user's file.

    given: the options, arch among them; classes: a text where the user gave it. Raises BadRequest as
    `library_module` does, and for options that the library's file contradicts.
    """
    weights = _weights_of_file(given["arch"], path)
    if not weights or not set(given) <= LIBRARY_FILE_OPTIONS:
        return None
    categories = len(weights.meta["categories"])
    if isinstance(classes, str) and classes not in ("", str(categories)):
        raise BadRequest(
            f"{text}: the library's file of that name has {categories} classes, got classes={classes}; "
            f"rename it, if it is another"
        )
    channels, size = parse_in_chans(given.get("in_chans", ""), text) or RGB, parse_shape(shape, text)
    module = library_module(given["arch"], path)
    assert module is not None
    adaptable = not getattr(module, "transform_input", False)
    module = adapt_channels(module, channels, text)
    module = checked_input(module, size, channels, adaptable=adaptable)
    if "normalize" in given:
        module = normalised(module, given["normalize"])
    flags = (CHANNELS_ADAPTED.name,) if channels != RGB else ()
    return wrap(module, ModelInfo(text, "external", flags=flags), made_by=text)


def with_transform_input(
    module: nn.Module, given: Mapping[str, str], text: str
) -> tuple[nn.Module, tuple[NamingScheme, ...]]:
    """Set what no tensor of a user's file tells; return (network, naming schemes of its tensors).

    googlenet and inception_v3 shift their input where they were built with `transform_input`, as torchvision
    does with its own weights and not otherwise, so the user has to say. Their auxiliary heads, used in
    training only, are removed. Raises BadRequest.
    """
    transform, name = given.get("transform_input", ""), given["arch"].partition(":")[2]
    schemes = library_naming(given["arch"])
    if not hasattr(module, "transform_input"):
        if transform:
            raise BadRequest(f"{text}: transform_input goes with googlenet and inception_v3 of torchvision")
        return module, schemes
    is_rgb = (parse_in_chans(given.get("in_chans", ""), text) or RGB) == RGB
    if transform == "true" and not is_rgb:
        raise BadRequest(f"{text}: transform_input shifts each of three channels, got {given['in_chans']}")
    if not transform and is_rgb:
        raise BadRequest(
            f"{text}: whether this {name} shifts its input is not in the file; add [transform_input=true], "
            f"as torchvision builds it for its own weights (and for what is tuned from them), or "
            f"[transform_input=false], as it builds it without"
        )
    heads = _auxiliary_heads(module, name)
    settings = {"transform_input": transform == "true", "aux_logits": False, **dict.fromkeys(heads)}
    for attribute, value in settings.items():
        setattr(module, attribute, value)
    unused = tuple(f"{head}." for head in heads)
    return module, tuple(replace(scheme, unused=unused) for scheme in schemes)


def _auxiliary_heads(module: nn.Module, name: str) -> list[str]:
    """Return the parts that torchvision leaves out without `aux_logits`."""
    from torchvision import models

    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        bare = models.get_model(name, weights=None, aux_logits=False, init_weights=False)
    kept = {child for child, _ in bare.named_children()}
    return [child for child, _ in module.named_children() if child not in kept]


def library_naming(arch: str) -> tuple[NamingScheme, ...]:
    """Return the names that a library has used for the tensors of a network.

    Older densenets have another dot in the names of layers, which the library's own loader removes
    (torchvision/models/densenet.py, and timm's).
    """
    older = NamingScheme(lambda name: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name))
    return (OWN, older) if "densenet" in arch else (OWN,)


def _weights_of_file(arch: str, path: Path) -> Any:
    """Return the member of torchvision's weights enumerations whose file has this name, else None."""
    source, _, name = arch.partition(":")
    if source != "torchvision" or "[" in name:
        return None
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    enum = models.get_model_weights(name)
    return next((weights for weights in enum if file_name(weights) == path.name), None)


def pretrained(name: str, weights: Any, path: Path, text: str) -> nn.Module:
    """Build a network of torchvision with a local file of its weights.

    torchvision's builder knows the arguments that go with the weights (googlenet and inception_v3 shift their
    input, transformers have a fixed size), the names in older files, and the heads that are dropped. Only the
    loader is replaced, for torchvision's downloads, and unpickles whatever the file holds.
    """
    from torchvision import models

    read_state_dict(path)  # refuses what would run code, and says what is wrong with a damaged file

    # With the versions of its modules that the file keeps, which some of torchvision's loaders ask for.
    def get_state_dict(*_: Any, **__: Any) -> Any:
        return torch.load(path, weights_only=True, map_location="cpu")

    enum = type(weights)
    enum.get_state_dict = get_state_dict
    try:
        with warnings.catch_warnings(action="ignore"):
            module: nn.Module = models.get_model(name, weights=weights)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"{path} is not the file of {text} that its name says (rename it, if it is another): "
            f"{one_line(error, 160)}"
        ) from None
    finally:
        del enum.get_state_dict  # the method of its base class is back
    return module.requires_grad_(False).eval()


def file_name(weights: Any) -> str:
    """Return the name under which torch.hub keeps a file of torchvision's weights enumerations."""
    return str(weights.url.rpartition("/")[2])
