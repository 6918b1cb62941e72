"""Compute the weights of parametrized layers: torch's weight norm and spectral norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...errors import BadRequest
from .formats import OWN_CODE

_PARAMETRIZED = ".parametrizations."


def without_parametrizations(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with each parametrized weight as torch computes it in eval mode.

    Known forms, of torch.nn.utils: X_g and X_v (weight_norm), X_orig with X_u and X_v (spectral_norm),
    parametrizations.X.original0 and original1 (parametrizations.weight_norm), parametrizations.X.original
    with 0._u and 0._v (parametrizations.spectral_norm). Raises BadRequest for other parametrizations, whose
    function is not in the file.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        weight, part = _part(name, state)
        if part:
            groups.setdefault(weight, {})[part] = tensor
            weights.setdefault(weight, tensor)  # keeps its position among the others
        else:
            weights[name] = tensor
    for weight, parts in groups.items():
        if weight in state:
            raise BadRequest(f"{weight} is there twice: as it is, and in parts ({', '.join(parts)})")
        weights[weight] = _weight_of(weight, parts)
    return weights


def _part(name: str, state: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return (weight, part of it), or ('', '') for a tensor that is no part."""
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


def _weight_of(weight: str, parts: Mapping[str, Tensor]) -> Tensor:
    computed = None
    for names, compute in _FORMS.items():
        if parts.keys() == set(names):
            computed = compute(*(parts[name] for name in names))
    if computed is None:
        raise BadRequest(
            f"{weight} is stored in parts ({', '.join(parts)}) that its own code puts together; save the "
            f"network after torch.nn.utils.parametrize.remove_parametrizations, or {OWN_CODE}"
        )
    return computed


def _weight_norm(v: Tensor, g: Tensor) -> Tensor | None:
    """Return g v / |v|, the norm over all but the dimension that g has; None where they do not fit."""
    if g.dim() == 0:
        return torch._weight_norm(v, g, -1)
    dims = [dim for dim, length in enumerate(g.shape) if length > 1]
    dim = dims[0] if dims else 0
    expected = [length if other == dim else 1 for other, length in enumerate(v.shape)]
    if len(dims) > 1 or list(g.shape) != expected:
        return None
    return torch._weight_norm(v, g, dim)


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    """Return W / u^T W v, W being the weight as a matrix of the dimension of u; None where none fits."""
    dims = [
        dim
        for dim in range(min(weight.dim(), 2))
        if u.shape == weight.shape[dim : dim + 1] and v.numel() * len(u) == weight.numel()
    ]
    if weight.dim() < 2 or not dims:
        return None
    dim = dims[0]  # torch's own is 0, and 1 only for transposed convolutions
    matrix = weight.transpose(0, dim).flatten(1) if dim else weight.flatten(1)
    return weight / torch.dot(u, torch.mv(matrix, v))


# The names of the parts, in the order in which the function takes them.
_FORMS: dict[tuple[str, ...], Callable[..., Tensor | None]] = {
    ("_v", "_g"): _weight_norm,
    ("original1", "original0"): _weight_norm,
    ("_orig", "_u", "_v"): _spectral_norm,
    ("original", "0._u", "0._v"): _spectral_norm,
}
