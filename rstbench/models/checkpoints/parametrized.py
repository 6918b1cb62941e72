"""Weights that are stored in parts: weight norm and spectral norm of torch, as the weights they give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import BadRequest
from .formats import OWN_CODE

_PARAMETRIZED = ".parametrizations."


def rebuilt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with each weight as torch computes it in eval mode.

    Known forms, of torch.nn.utils: X_g and X_v (weight_norm), X_orig with X_u and X_v (spectral_norm),
    parametrizations.X.original0 and original1 (parametrizations.weight_norm), parametrizations.X.original
    with 0._u and 0._v (parametrizations.spectral_norm). Raises BadRequest for other parametrizations, whose
    function no file tells.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        weight, part = _part(name, state)
        if part:
            whole = weight not in groups
            groups.setdefault(weight, {})[part] = tensor
            if whole:
                plain[weight] = tensor  # which keeps its place among the others
        else:
            plain[name] = tensor
    for weight, parts in groups.items():
        if weight in state:
            raise BadRequest(f"{weight} is there twice: as it is, and in parts ({', '.join(parts)})")
        plain[weight] = _whole(weight, parts)
    return plain


def _part(name: str, state: Mapping[str, Tensor]) -> tuple[str, str]:
    """(the weight, which part of it), or ('', '') for a tensor that is no part."""
    layer, inner, rest = f".{name}".partition(_PARAMETRIZED)
    if inner:
        leaf, _, part = rest.partition(".")
        return f"{layer}.{leaf}".lstrip("."), part
    for end in ("_g", "_v", "_u", "_orig"):
        weight = name.removesuffix(end)
        if weight == name:
            continue
        normed = {f"{weight}_g", f"{weight}_v"} <= state.keys()
        spectral = {f"{weight}_orig", f"{weight}_u"} <= state.keys()
        if (normed and end in ("_g", "_v")) or (spectral and end in ("_orig", "_u", "_v")):
            return weight, end
    return "", ""


def _whole(weight: str, parts: Mapping[str, Tensor]) -> Tensor:
    found = None
    if parts.keys() == {"_g", "_v"}:
        found = _weight_norm(parts["_v"], parts["_g"])
    elif parts.keys() == {"original0", "original1"}:
        found = _weight_norm(parts["original1"], parts["original0"])
    elif parts.keys() == {"_orig", "_u", "_v"}:
        found = _spectral(parts["_orig"], parts["_u"], parts["_v"])
    elif parts.keys() == {"original", "0._u", "0._v"}:
        found = _spectral(parts["original"], parts["0._u"], parts["0._v"])
    if found is None:
        raise BadRequest(
            f"{weight} is stored in parts ({', '.join(parts)}) that its own code puts together; save the "
            f"network after torch.nn.utils.parametrize.remove_parametrizations, or {OWN_CODE}"
        )
    return found


def _weight_norm(direction: Tensor, size: Tensor) -> Tensor | None:
    """g v / |v|, the norm over all but the dimension that g has; over all where it is one number."""
    wide = [place for place, length in enumerate(size.shape) if length > 1]
    if size.dim() == 0:
        return torch._weight_norm(direction, size, -1)
    place = wide[0] if wide else 0
    wanted = [length if dim == place else 1 for dim, length in enumerate(direction.shape)]
    if len(wide) > 1 or list(size.shape) != wanted:
        return None
    return torch._weight_norm(direction, size, place)


def _spectral(weight: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    """The weight over u^T W v, W being the weight as a matrix of the dimension that u has."""
    fitting = [
        place
        for place in range(min(weight.dim(), 2))
        if left.shape == weight.shape[place : place + 1] and right.numel() * len(left) == weight.numel()
    ]
    if weight.dim() < 2 or not fitting:
        return None
    place = fitting[0]  # torch's own is 0, and 1 only for transposed convolutions
    matrix = weight.transpose(0, place).flatten(1) if place else weight.flatten(1)
    return weight / torch.dot(left, torch.mv(matrix, right))
