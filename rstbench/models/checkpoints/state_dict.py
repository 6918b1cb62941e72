"""Read state dicts from files, and load them into modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ...errors import BadFile, BadRequest, listed
from .csr import to_dense
from .formats import OWN_CODE, read_weight_file
from .layer_order import reshape_like, without_wrappers
from .match import MatchOptions, match_tensors
from .select import StoredNetwork, select_network


def read_checkpoint(
    path: Path, key: str, preferred_keys: Sequence[str], options: MatchOptions, *, parts: bool = False
) -> StoredNetwork:
    """Read one network of a file (see `select.select_network`), dense, without torch's wrappers in its names.

    options: whose `prefix` and `without` tell which values count. Raises BadFile, also for other objects
    among the tensors, and BadRequest.
    """
    content, ordered = read_weight_file(path)
    checkpoint = select_network(content, path, key, preferred_keys, parts=parts)
    ignored = tuple(f"{start}." for start in options.without.split("+") if start)
    objects = [name for name in checkpoint.objects if not f"{name}.".startswith(ignored)]
    objects = [name for name in objects if name.startswith(options.prefix)]
    if objects:
        raise BadFile(
            checkpoint.ambiguity
            or f"{path} holds {listed(objects)} among its tensors, which is none; save the float network's "
            f"state dict alone, or {OWN_CODE}"
        )
    dense = to_dense(checkpoint.state)
    plain = {without_wrappers(name): tensor for name, tensor in dense.items()}
    # As they are where two tensors would share a name.
    return replace(checkpoint, state=plain if len(plain) == len(dense) else dense, ordered=ordered)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one network from a `.safetensors` file or one that `torch.save` wrote.

    Raises BadFile for files that are missing, damaged, hold no tensors, or would run code, BadRequest where
    it is not clear which network is meant.
    """
    return read_checkpoint(path, "", (), MatchOptions()).state


def load_matching(module: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """Load a state whose names are the module's, maybe behind a prefix.

    Raises BadRequest that names the tensors that do not fit.
    """
    names = match_tensors(module, state, what, MatchOptions(ordered=False)).names
    return load_tensors(module, {name: state[stored] for name, stored in names.items()}, what)


def load_tensors(module: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """Load tensors under the module's own names; return it frozen and in eval mode.

    Raises BadRequest for whole numbers where the network has fractions.
    """
    own = module.state_dict()
    for name, tensor in state.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise BadRequest(
                f"{what}: {name} holds whole numbers ({tensor.dtype}), as quantised weights do; save the "
                f"float network's state dict"
            )
    # In place, for it also holds the versions of the modules.
    own.update({name: reshape_like(tensor, own[name]) for name, tensor in state.items()})
    module.load_state_dict(own)
    return module.requires_grad_(False).eval()
