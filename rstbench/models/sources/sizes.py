"""Networks of the libraries for the classes and channels that a file of weights has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from ...errors import BadRequest
from ..checkpoints.match import DoesNotFit, Wanted, holds
from ..wrapper import load_reference
from .input_shape import first_convolution

Sizes = Mapping[str, str | int]


def random_start(arch: str, sizes: Sizes) -> nn.Module:
    """A network of `timm:NAME` or `torchvision:NAME`; sizes: its classes and in_chans, where they are known.
    Raises BadRequest."""
    options = ",".join(f"{name}={size}" for name, size in sizes.items() if size)
    return load_reference(f"{arch}[{options}]" if options else arch).module


@contextmanager
def sized(
    module: nn.Module,
    state: Mapping[str, Tensor],
    wanted: Wanted,
    sizes: Sizes,
    again: Callable[[Sizes], nn.Module],
) -> Iterator[None]:
    """Says which classes and channels would do where a file does not fit for want of them.

    sizes: those that the module has; again: builds it with others.
    """
    try:
        yield
    except DoesNotFit as error:
        theirs = _theirs(module, state, sizes)
        try:
            fits = theirs and holds(again({**sizes, **theirs}), state, wanted)
        except BadRequest:
            fits = False
        if not fits:
            raise
        options = ",".join(f"{name}={size}" for name, size in theirs.items())
        helps = f"[{options}]: with that the file holds the whole {wanted.network}"
        raise DoesNotFit(error.problem, helps) from None


def _theirs(module: nn.Module, state: Mapping[str, Tensor], sizes: Sizes) -> dict[str, str | int]:
    """The classes and channels that the tensors of a file have under the network's names, where others."""
    first = first_convolution(module)
    found: dict[str, str | int] = {}
    for name, ours in module.state_dict().items():
        other = next((t for n, t in state.items() if f".{n}".endswith(f".{name}")), ours)
        if other.dim() != ours.dim() or not ours.dim():
            continue
        if first and name == f"{first[0]}.weight" and other.shape[1] != ours.shape[1]:
            found["in_chans"] = other.shape[1]
        elif str(len(ours)) == str(sizes["classes"]) and len(other) != len(ours):
            found["classes"] = len(other)
    return found
