"""Build networks of the libraries for the classes and channels of a weight file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from ...errors import BadRequest
from ..checkpoints.differences import ArchitectureMismatch
from ..checkpoints.match import MatchOptions, contains_network
from ..wrapper import load_reference
from .input_shape import first_convolution

Sizes = Mapping[str, str | int]


def random_start(arch: str, sizes: Sizes) -> nn.Module:
    """Build `timm:NAME` or `torchvision:NAME` with a random start.

    sizes: its classes and in_chans, where they are known. Raises BadRequest.
    """
    options = ",".join(f"{name}={size}" for name, size in sizes.items() if size)
    return load_reference(f"{arch}[{options}]" if options else arch).module


@contextmanager
def suggest_sizes(
    module: nn.Module, state: Mapping[str, Tensor], options: MatchOptions, arch: str, sizes: Sizes
) -> Iterator[None]:
    """Add to an `ArchitectureMismatch` the classes and channels with which the file would match.

    arch: the module as `random_start` takes it; sizes: those it was built for.
    """
    try:
        yield
    except ArchitectureMismatch as error:
        stored = _sizes_in_file(module, state, sizes)
        try:
            matches = stored and contains_network(random_start(arch, {**sizes, **stored}), state, options)
        except BadRequest:
            matches = False
        if not matches:
            raise
        advice = ",".join(f"{name}={size}" for name, size in stored.items())
        helps = f"[{advice}]: with that the file holds the whole {options.network}"
        raise ArchitectureMismatch(error.problem, helps) from None


def _sizes_in_file(module: nn.Module, state: Mapping[str, Tensor], sizes: Sizes) -> dict[str, str | int]:
    """Return the classes and channels of a file's tensors where they differ from the network's."""
    first = first_convolution(module)
    stored: dict[str, str | int] = {}
    for name, own in module.state_dict().items():
        other = next((t for n, t in state.items() if f".{n}".endswith(f".{name}")), own)
        if other.dim() != own.dim() or not own.dim():
            continue
        if first and name == f"{first[0]}.weight" and other.shape[1] != own.shape[1]:
            stored["in_chans"] = other.shape[1]
        elif str(len(own)) == str(sizes["classes"]) and len(other) != len(own):
            stored["classes"] = len(other)
    return stored
