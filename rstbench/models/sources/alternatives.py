"""Suggest the network that a file holds, where it does not hold the requested one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from ...errors import BadRequest
from ...networks.network import NetworkSpec, build, prunable
from ...plugins import BUILTIN
from ..checkpoints.layer_names import naming_schemes
from ..checkpoints.layer_order import layers_of
from ..checkpoints.match import MatchOptions, contains_network


def fits(
    spec: NetworkSpec, state: Mapping[str, Tensor], options: MatchOptions, *, alone: bool = False
) -> bool:
    """Whether a file holds this network, see `contains_network`."""
    try:
        with torch.device("meta"):
            return contains_network(build(spec), state, options, alone=alone)
    except BadRequest:
        return False


def last_layer_bias(state: Mapping[str, Tensor]) -> str:
    """Return 'last' where the last layer of a file has a bias, else 'none'."""
    return "last" if f"{_last_weight(state).removesuffix('weight')}bias" in state else "none"


def _last_weight(state: Mapping[str, Tensor]) -> str:
    matrices = [name for name, tensor in state.items() if tensor.dim() > 1]
    return ([name for name in matrices if name.endswith("weight")] or matrices or [""])[-1]


def suggest_options(spec: NetworkSpec, state: Mapping[str, Tensor], options: MatchOptions) -> str:
    """Tell the options with which the file holds a complete network and nothing else, '' where none do.

    Other settings of the given network are tried first, then other networks.
    """
    if not (name := _last_weight(state)):
        return ""
    last = state[name]
    inferred = replace(
        spec, norm=_norm_of(state), bias=last_layer_bias(state), classes=len(last), shortcut=""
    )
    choices = (
        dict.fromkeys((getattr(spec, setting), getattr(inferred, setting)))
        for setting in ("norm", "bias", "classes")
    )
    same_network = [
        replace(spec, norm=norm, bias=bias, classes=classes, last_norm=last_norm)
        for norm, bias, classes, last_norm in product(*choices, (False, True))
    ]
    others = [replace(inferred, name=n) for n in BUILTIN["networks"] if n not in (spec.name, "torchvision")]
    for candidate in (*same_network, *others):
        for width in dict.fromkeys((spec.width, _width_of(candidate, last))):
            other = replace(candidate, width=width)
            tried = replace(options, schemes=naming_schemes(other.name))
            if other != spec and fits(other, state, tried, alone=True):
                return f"[{_changed_options(spec, other)}]: with that the file holds the whole {other.name}"
    return ""


def _changed_options(spec: NetworkSpec, other: NetworkSpec) -> str:
    """Write the options that differ between two networks, as the other has them."""

    def options(spec: NetworkSpec) -> dict[str, str]:
        last_norm = str(spec.last_norm).lower()
        return {"arch": spec.name, "width": f"{spec.width:g}", "norm": spec.norm,
                "last_norm": last_norm, "bias": spec.bias, "classes": str(spec.classes)}  # fmt: skip

    before = options(spec)
    return ",".join(f"{name}={text}" for name, text in options(other).items() if text != before[name])


def _norm_of(state: Mapping[str, Tensor]) -> str:
    """Return the norm of a file's layers: those with running means have one."""
    norms = [layer for layer in layers_of(state).values() if "running_mean" in layer]
    return "none" if not norms else "affine" if any("weight" in layer for layer in norms) else "batch"


def _width_of(spec: NetworkSpec, last: Tensor) -> float:
    """Return the multiplier with which a network's last layer has as many inputs as the file's."""
    try:
        with torch.device("meta"):
            own = list(prunable(build(replace(spec, width=1, bias="none"))).values())[-1]
    except BadRequest:
        return spec.width
    return last[0].numel() / own[0].numel()
