"""In what a file differs from a network, for a person to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import BadRequest, listed
from .layer_names import Layout
from .layer_order import core, is_counter


def difference(network: Mapping[str, Tensor], file: Mapping[str, Tensor], layouts: Sequence[Layout]) -> str:
    """What of a network a file lacks, has besides, or has of another shape, in the layout that is nearest."""

    def renamed(layout: Layout) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own = {layout.theirs(name): tensor for name, tensor in network.items()}
        return own, _nearest(own, file)

    own, state = max(map(renamed, layouts), key=lambda pair: len(pair[0].keys() & pair[1].keys()))
    lacking = [name for name in own if name not in state and not is_counter(name)]
    strange = [name for name in state if name not in own and not is_counter(name)]
    wrong = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and not is_counter(name) and core(state[name]) != core(own[name])
    ]
    problems = ((lacking, "lacks"), (strange, "also has"), (wrong, "has of another shape"))
    return "the file " + "; ".join(f"{problem} {listed(names)}" for names, problem in problems if names)


def _nearest(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the beginning that all of its names share, while the network's do not."""
    plain = {name: tensor for name, tensor in state.items() if not is_counter(name)}
    while plain and not plain.keys() & own.keys():
        starts = {name.partition(".")[0] for name in plain}
        if len(starts) > 1 or not all("." in name for name in plain):
            break
        plain = {name.partition(".")[2]: tensor for name, tensor in plain.items()}
    return plain


def refuse_quantised(state: Mapping[str, Tensor], what: str) -> None:
    """Raises BadRequest for weights of whole numbers, and of eight bits with a scale beside them."""
    for name, tensor in state.items():
        if name.rpartition(".")[2] != "weight" or tensor.dim() < 2 or tensor.dtype == torch.bool:
            continue
        scaled = tensor.itemsize == 1 and any(
            other.startswith((f"{name}_", f"{name}.")) and "mask" not in other for other in state
        )
        if scaled or not tensor.is_floating_point():
            kind = "eight-bit" if tensor.is_floating_point() else "whole"
            raise BadRequest(
                f"{what}: {name} holds {kind} numbers ({tensor.dtype}), as quantised weights do; save the "
                f"float network's state dict"
            )
