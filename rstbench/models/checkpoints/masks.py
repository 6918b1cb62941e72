"""Masks that a checkpoint keeps beside its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import BadRequest

ORIGINAL = "_orig"
_LEAF = re.compile(r"(?P<layer>.*\.|)(?P<leaf>[^.]+)")


def is_mask(tensor: Tensor) -> bool:
    """Whether a tensor holds nothing but zeros and ones, as numbers or as truth values."""
    if tensor.dtype == torch.bool:
        return True
    plain = not (tensor.is_quantized or tensor.is_complex() or tensor.is_meta or tensor.is_sparse)
    return plain and tensor.layout == torch.strided and bool(((tensor == 0) | (tensor == 1)).all())


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal in type, shape and every value."""
    plain = all(t.layout == torch.strided and not t.is_quantized and not t.is_meta for t in (one, other))
    return plain and one.dtype == other.dtype and torch.equal(one, other)


def split_masks(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(the tensors that are no masks, the masks as truth values by the name of what they are on).

    Known forms, in which X is mostly `weight` or `bias`: X_orig and X_mask (torch.nn.utils.prune), X and
    X_mask (ganguli-lab/Synaptic-Flow), X and X.mask, `weight` and `mask` of one layer, and X and mask.X or
    masks.X. What is called a mask but goes with no tensor stays where it is. Raises BadRequest for masks that
    are no zeros and ones of their tensor's shape, and for X_orig without a mask.
    """
    targets = {name: mask_target(name, state) for name in state}
    full, masks = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in state.items():
        target = targets[name]
        if target:
            plain = target.removesuffix(ORIGINAL)
            mask = _checked(name, tensor, target, state[target])
            if plain in masks and not torch.equal(masks[plain], mask):
                raise BadRequest(f"{name} is a second, other mask on {plain}")
            masks[plain] = mask
            continue
        plain = name.removesuffix(ORIGINAL)
        if plain != name and (name not in targets.values() or plain in state):
            raise BadRequest(f"{name} has no mask of its shape, of zeros and ones, beside it")
        full[plain] = tensor
    return full, masks


def mask_target(name: str, state: Mapping[str, Tensor]) -> str:
    """What a tensor is the mask of, '' where it is none."""
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
        what = f"shape {tuple(mask.shape)}" if mask.shape != weight.shape else "other values"
        raise BadRequest(
            f"{target} has no mask of its shape, of zeros and ones, beside it: {name} has {what}; scores and "
            f"soft masks are applied by their own code: save the weights it uses"
        )
    return mask.bool()
