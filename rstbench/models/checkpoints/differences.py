"""Tell a person in what a file differs from a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import BadRequest, listed
from .formats import OWN_CODE
from .layer_names import NamingScheme
from .layer_order import core_shape, is_counter, without_common_prefix


class ArchitectureMismatch(BadRequest):
    """The file does not hold the requested network; problem: what differs."""

    def __init__(self, problem: str, helps: str = OWN_CODE) -> None:
        super().__init__(f"{problem}; choose another arch, or {helps}")
        self.problem = problem


class UnexpectedTensors(BadRequest):
    """The file holds the network, and other tensors that may affect the outputs; problem: which."""

    def __init__(self, problem: str, helps: str) -> None:
        super().__init__(f"{problem}; {helps}")
        self.problem = problem


def difference(
    network: Mapping[str, Tensor], file: Mapping[str, Tensor], schemes: Sequence[NamingScheme]
) -> str:
    """Tell the missing, unexpected and mismatched tensors of a file, under the scheme that fits best."""

    def renamed(scheme: NamingScheme) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own = {scheme.rename(name): tensor for name, tensor in network.items()}
        return own, _without_prefixes(own, file)

    own, state = max(map(renamed, schemes), key=lambda pair: len(pair[0].keys() & pair[1].keys()))
    missing = [name for name in own if name not in state and not is_counter(name)]
    unexpected = [name for name in state if name not in own and not is_counter(name)]
    mismatched = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and not is_counter(name) and core_shape(state[name]) != core_shape(own[name])
    ]
    problems = ((missing, "lacks"), (unexpected, "also has"), (mismatched, "has of another shape"))
    return "the file " + "; ".join(f"{problem} {listed(names)}" for names, problem in problems if names)


def _without_prefixes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove common prefixes from the names of a file until one of them is the network's."""
    state = {name: tensor for name, tensor in state.items() if not is_counter(name)}
    while not state.keys() & own.keys() and (shorter := without_common_prefix(state)):
        state = shorter
    return state


def refuse_quantized(state: Mapping[str, Tensor], what: str) -> None:
    """Raise BadRequest for weights of whole numbers, and for eight-bit ones with a scale beside them."""
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
