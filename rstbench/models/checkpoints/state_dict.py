"""State dicts out of files, and into modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ...errors import BadFile, BadRequest, listed
from .csr import expanded
from .formats import OWN_CODE, read_archive
from .layer_order import like, unwrapped
from .match import Wanted, fit
from .select import Found, network_in


def read_network(
    path: Path,
    key: str = "",
    rule: Sequence[str] = (),
    prefix: str = "",
    without: str = "",
    *,
    parts: bool = False,
) -> Found:
    """One network of a file, compressed weights (see `csr`) expanded, its names without those of torch's
    wrappers: see `choose.network_in`.

    prefix, without: what is meant, as in `fit.Wanted`. Raises BadFile, also for what is no tensor among the
    tensors, and BadRequest.
    """
    content, ordered = read_archive(path)
    found = network_in(content, path, key, rule, parts=parts)
    starts = tuple(f"{start}." for start in without.split("+") if start)
    strange = [
        name for name in found.odd if not f"{name}.".startswith(starts or ("\0",)) and name.startswith(prefix)
    ]
    if strange:
        raise BadFile(
            found.unclear
            or f"{path} holds {listed(strange)} among its tensors, which is none; save the float network's "
            f"state dict alone, or {OWN_CODE}"
        )
    return replace(found, state=_unwrapped(expanded(found.state)), ordered=ordered)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state by plain names, as it is where two would share one."""
    plain = {unwrapped(name): tensor for name, tensor in state.items()}
    return plain if len(plain) == len(state) else state


def read_state(path: Path, key: str = "") -> dict[str, Tensor]:
    """The tensors of one network, by name, out of a `.safetensors` file or of what `torch.save` wrote.

    Nested checkpoints are opened (key: where, if they hold several networks), compressed weights expanded.
    Raises BadFile for files that are missing, damaged, hold no tensors, or would run code, BadRequest where
    it is not clear what is meant.
    """
    return read_network(path, key).state


def put_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """The module with this state, under its names or the same behind a prefix. Raises BadRequest that names
    the tensors that do not fit."""
    names = fit(module, state, what, Wanted(ordered=False)).names
    return load(module, {name: state[place] for name, place in names.items()}, what)


def load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """The module with these tensors, by its own names, frozen and in eval mode. Raises BadRequest for whole
    numbers where the network has fractions."""
    own = module.state_dict()
    for name, tensor in state.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise BadRequest(
                f"{what}: {name} holds whole numbers ({tensor.dtype}), as quantised weights do; save the "
                f"float network's state dict"
            )
    # In place, for it also holds the versions of the modules.
    own.update({name: like(tensor, own[name]) for name, tensor in state.items()})
    module.load_state_dict(own)
    return module.requires_grad_(False).eval()
