"""Which other network a file holds, where it does not hold the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from ...errors import BadRequest
from ...networks.network import NetworkSpec, build, prunable
from ...plugins import BUILTIN
from ..checkpoints.foreign import Foreign
from ..checkpoints.layer_names import layouts
from ..checkpoints.layer_order import layers_of
from ..checkpoints.match import Wanted, holds


def fits(spec: NetworkSpec, found: Foreign, wanted: Wanted, *, alone: bool = False) -> bool:
    """Whether a file holds this network, see `holds`."""
    try:
        with torch.device("meta"):
            return holds(build(spec), found.state, wanted, alone=alone)
    except BadRequest:
        return False


def last_bias(state: Mapping[str, Tensor]) -> str:
    """'last' where the last layer of a file has a bias, 'none' where it has none."""
    return "last" if f"{_last_weight(state).removesuffix('weight')}bias" in state else "none"


def _last_weight(state: Mapping[str, Tensor]) -> str:
    matrices = [name for name, tensor in state.items() if tensor.dim() > 1]
    return ([name for name in matrices if name.endswith("weight")] or matrices or [""])[-1]


def instead_of(bare: NetworkSpec, found: Foreign, wanted: Wanted) -> str:
    """The options with which the file would hold the whole of a network, this one first, and nothing else; ''
    where there are none."""
    if not (name := _last_weight(found.state)):
        return ""
    last = found.state[name]
    told = replace(
        bare,
        norm=_norm_of(found.state),
        bias=last_bias(found.state),
        classes=len(last),
        shortcut="",
    )
    choices = ({getattr(bare, part): 0, getattr(told, part): 0} for part in ("norm", "bias", "classes"))
    own = [
        replace(bare, norm=norm, bias=bias, classes=classes, last_norm=last_norm)
        for norm, bias, classes, last_norm in product(*choices, (False, True))
    ]
    others = [replace(told, name=n) for n in BUILTIN["networks"] if n not in (bare.name, "torchvision")]
    for spec in (*own, *others):
        for width in dict.fromkeys((bare.width, _width_of(spec, last))):
            other = replace(spec, width=width)
            layout = replace(wanted, layouts=layouts(other.name))
            if other != bare and fits(other, found, layout, alone=True):
                return f"[{_changes(bare, other)}]: with that the file holds the whole {other.name}"
    return ""


def _changes(bare: NetworkSpec, other: NetworkSpec) -> str:
    """The options that make one network of the other."""

    def told(spec: NetworkSpec) -> dict[str, str]:
        last_norm = str(spec.last_norm).lower()
        return {"arch": spec.name, "width": f"{spec.width:g}", "norm": spec.norm,
                "last_norm": last_norm, "bias": spec.bias, "classes": str(spec.classes)}  # fmt: skip

    before = told(bare)
    return ",".join(f"{name}={text}" for name, text in told(other).items() if text != before[name])


def _norm_of(state: Mapping[str, Tensor]) -> str:
    """The norm of a file's layers: those with running means have one."""
    norms = [layer for layer in layers_of(state).values() if "running_mean" in layer]
    return "none" if not norms else "affine" if any("weight" in layer for layer in norms) else "batch"


def _width_of(spec: NetworkSpec, last: Tensor) -> float:
    """The multiplier with which a network's last layer has as many inputs as the file's."""
    try:
        with torch.device("meta"):
            own = list(prunable(build(replace(spec, width=1, bias="none"))).values())[-1]
    except BadRequest:
        return spec.width
    return last[0].numel() / own[0].numel()
