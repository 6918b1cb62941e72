"""torchvision's own files of weights, in what torchvision's own builder makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import BadRequest
from ..checkpoints.state import read_state


def library_module(arch: str, path: Path) -> nn.Module | None:
    """The network of `torchvision:NAME` with the weights of `path`, built by torchvision with the settings
    that it ties to them, where the file bears the name of one of the library's own; None for other files.

    Without it a googlenet would lose `transform_input`, and a vision transformer its image size. Raises
    BadRequest where the file is not what its name says.
    """
    source, _, name = arch.partition(":")
    if source != "torchvision" or "[" in name:
        return None
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    named = [found for found in models.get_model_weights(name) if file_name(found) == path.name]
    return pretrained(name, named[0], path, f"{arch}/{named[0].name}") if named else None


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
