"""Read the masks that a checkpoint keeps beside its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import BadRequest

ORIGINAL = "_orig"
_LEAF = re.compile(r"(?P<layer>.*\.|)(?P<leaf>[^.]+)")


def is_mask(tensor: Tensor) -> bool:
    """Whether a tensor holds nothing but zeros and ones, as numbers or booleans."""
    if tensor.dtype == torch.bool:
        return True
    is_dense = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)
    return is_dense and not tensor.is_complex() and bool(((tensor == 0) | (tensor == 1)).all())


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal in dtype, shape and every value."""
    are_dense = all(t.layout == torch.strided and not t.is_quantized and not t.is_meta for t in (one, other))
    return are_dense and one.dtype == other.dtype and torch.equal(one, other)


def separate_masks(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return (the tensors that are no masks, {name of the masked tensor: boolean mask}).

    Known forms, in which X is mostly `weight` or `bias`: X_orig and X_mask (torch.nn.utils.prune), X and
    X_mask (ganguli-lab/Synaptic-Flow), X and X.mask, `weight` and `mask` of one layer, and X and mask.X or
    masks.X. A mask that goes with no tensor stays a tensor. Raises BadRequest for masks other than zeros and
    ones of their tensor's shape, and for X_orig without a mask.
    """
    targets = {name: masked_name(name, state) for name in state}
    tensors, masks = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in state.items():
        target = targets[name]
        if target:
            unmasked = target.removesuffix(ORIGINAL)
            mask = _checked(name, tensor, target, state[target])
            if unmasked in masks and not torch.equal(masks[unmasked], mask):
                raise BadRequest(f"{name} is a second, other mask on {unmasked}")
            masks[unmasked] = mask
            continue
        unmasked = name.removesuffix(ORIGINAL)
        if unmasked != name and (name not in targets.values() or unmasked in state):
            raise BadRequest(f"{name} has no mask of its shape, of zeros and ones, beside it")
        tensors[unmasked] = tensor
    return tensors, masks


def masked_name(name: str, state: Mapping[str, Tensor]) -> str:
    """Return the name of the tensor that a mask is on, '' for a tensor that is no mask."""
    match = _LEAF.fullmatch(name)
    if match is None or "mask" not in name.lower():
        return ""
    layer, leaf = match["layer"], match["leaf"]
    forms = [name.removesuffix("_mask")] if name.endswith("_mask") else []
    if leaf in ("mask", "masks"):
        forms += [f"{layer}weight", layer.removesuffix(".")]
    if leaf in ("mask_weight", "mask_bias"):
        forms.append(f"{layer}{leaf.removeprefix('mask_')}")
    parts = name.split(".")
    for word in ("mask", "masks"):
        if word in parts[:-1]:
            rest = [*parts[: parts.index(word)], *parts[parts.index(word) + 1 :]]
            forms += [".".join(rest), ".".join([*rest, "weight"])]
    for form in forms:
        for target in (f"{form}{ORIGINAL}", form):
            if form and target != name and target in state:
                return target
    return ""


def _checked(name: str, mask: Tensor, target: str, weight: Tensor) -> Tensor:
    if mask.shape != weight.shape or not is_mask(mask):
        problem = f"shape {tuple(mask.shape)}" if mask.shape != weight.shape else "other values"
        raise BadRequest(
            f"{target} has no mask of its shape, of zeros and ones, beside it: {name} has {problem}; scores "
            f"and soft masks are applied by their own code: save the weights it uses"
        )
    return mask.bool()
