"""torchvision's own files of weights, in what torchvision's own builder makes of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import BadRequest
from ...evidence.trial import ModelInfo
from ...flags import CHANNELS_ADAPTED
from ..checkpoints.layer_names import OWN, Layout
from ..checkpoints.state_dict import read_state
from ..normalise import normalised
from ..wrapper import EvalModel, wrap
from .input_shape import RGB, channels, fitting, image_shape, rechanneled

# Options beside which a file under the library's own name is still the library's file.
ASIDE = {"arch", "normalize", "in_chans"}


def library_module(arch: str, path: Path) -> nn.Module | None:
    """The network of `torchvision:NAME` with the weights of `path`, built by torchvision with the settings
    that it ties to them, where the file bears the name of one of the library's own; None for other files.

    Without it a googlenet would lose `transform_input`, and a vision transformer its image size. Raises
    BadRequest where the file is not what its name says.
    """
    named = _named(arch, path)
    return pretrained(arch.partition(":")[2], named, path, f"{arch}/{named.name}") if named else None


def library_entry(
    path: Path, text: str, given: Mapping[str, str], classes: str | int, shape: str | Sequence[int] | None
) -> EvalModel | None:
    """`library_module` as an entry, for images of this shape; None for other files, and where the options say
    what only a file of the user's has.

    given: the options, arch among them; classes: a text where the user gave it. Raises BadRequest as
    `library_module` does, and for options that the library's file contradicts.
    """
    named = _named(given["arch"], path)
    if not named or not set(given) <= ASIDE:
        return None
    held = len(named.meta["categories"])
    if isinstance(classes, str) and classes not in ("", str(held)):
        raise BadRequest(
            f"{text}: the library's file of that name has {held} classes, got classes={classes}; rename it, "
            f"if it is another"
        )
    wanted, size = channels(given.get("in_chans", ""), text) or RGB, image_shape(shape, text)
    module = library_module(given["arch"], path)
    assert module is not None
    shifts = getattr(module, "transform_input", False)
    if wanted != RGB:
        module = rechanneled(module, wanted, text)
    module = fitting(module, size, wanted, option=not shifts)
    if "normalize" in given:
        module = normalised(module, given["normalize"])
    flags = (CHANNELS_ADAPTED.name,) if wanted != RGB else ()
    return wrap(module, ModelInfo(text, "external", flags=flags), made_by=text)


def as_saved(module: nn.Module, given: Mapping[str, str], text: str) -> tuple[nn.Module, tuple[Layout, ...]]:
    """(a random start as the network that a user's file is of, in what no tensor of it tells; how its
    tensors may be named).

    googlenet and inception_v3 shift their input where they were built with `transform_input`, as torchvision
    does with its own weights and not otherwise: the user has to say. Their auxiliary heads, which answer in
    training only, are left out. Raises BadRequest.
    """
    said, name = given.get("transform_input", ""), given["arch"].partition(":")[2]
    named = library_layouts(given["arch"])
    if not hasattr(module, "transform_input"):
        if said:
            raise BadRequest(f"{text}: transform_input goes with googlenet and inception_v3 of torchvision")
        return module, named
    rgb = (channels(given.get("in_chans", ""), text) or RGB) == RGB
    if said == "true" and not rgb:
        raise BadRequest(f"{text}: transform_input shifts each of three channels, got {given['in_chans']}")
    if not said and rgb:
        raise BadRequest(
            f"{text}: whether this {name} shifts its input is not in the file; add [transform_input=true], "
            f"as torchvision builds it for its own weights (and for what is tuned from them), or "
            f"[transform_input=false], as it builds it without"
        )
    heads = _heads(module, name)
    for attribute, value in {"transform_input": said == "true", "aux_logits": False}.items():
        setattr(module, attribute, value)
    for head in heads:
        setattr(module, head, None)
    unused = tuple(f"{head}." for head in heads)
    return module, tuple(replace(layout, unused=unused) for layout in named)


def _heads(module: nn.Module, name: str) -> list[str]:
    """The parts that torchvision leaves out without `aux_logits`."""
    from torchvision import models

    with torch.device("meta"), hushed():
        bare = models.get_model(name, weights=None, aux_logits=False, init_weights=False)
    kept = {child for child, _ in bare.named_children()}
    return [child for child, _ in module.named_children() if child not in kept]


def library_layouts(arch: str) -> tuple[Layout, ...]:
    """How the library itself has named the tensors of a network: its densenets of an older time put a dot
    into the names of layers, which its own loader takes away (torchvision/models/densenet.py, and timm's)."""
    older = Layout(lambda name: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name))
    return (OWN, older) if "densenet" in arch else (OWN,)


def _named(arch: str, path: Path) -> Any:
    """The entry of torchvision's enumerations whose file has this name, None where there is none."""
    source, _, name = arch.partition(":")
    if source != "torchvision" or "[" in name:
        return None
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    return next((found for found in models.get_model_weights(name) if file_name(found) == path.name), None)


def pretrained(name: str, chosen: Any, path: Path, text: str) -> nn.Module:
    """What torchvision's own builder makes of these weights: it knows which of its constructor's arguments
    go with them (googlenet and inception_v3 shift their input, transformers have a fixed size), which names
    older files have, and which heads are dropped. Only where it takes the file from is ours, for its own
    loader fetches, and runs what a pickle says."""
    from torchvision import models

    read_state(path)  # refuses what would run code, and says what is wrong with a damaged file

    # With the versions of its modules that the file keeps, which some of torchvision's loaders ask for.
    def state(*_: Any, **__: Any) -> Any:
        return torch.load(path, weights_only=True, map_location="cpu")

    enum = type(chosen)
    enum.get_state_dict = state
    try:
        with hushed():
            module: nn.Module = models.get_model(name, weights=chosen)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:160]
        raise BadRequest(
            f"{path} is not the file of {text} that its name says (rename it, if it is another): {said}"
        ) from None
    finally:
        del enum.get_state_dict  # the method of its base class is back
    return module.requires_grad_(False).eval()


def file_name(weights: Any) -> str:
    """Under which torch.hub keeps the file of an entry of torchvision's enumerations."""
    return str(weights.url.rpartition("/")[2])


@contextmanager
def hushed() -> Iterator[None]:
    """Without the libraries' warnings about themselves, such as on how googlenet will be initialised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
