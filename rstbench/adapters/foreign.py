"""Other projects' tickets: state dicts that keep scores or masks beside the weights, as dense ones.

Known forms, told by their names:
- `X.weight` and `X.scores`: hidden networks (Ramanujan et al. 2020), RST (Fu et al. 2021) and binary
  subnetworks (Liu et al. 2022); `X.popup_scores`: HYDRA (Sehwag et al. 2020). The mask is computed anew by
  the rule of their code from the kept fraction, which the file does not hold.
- `X.weight_orig` and `X.weight_mask`: torch.nn.utils.prune.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import BadRequest
from ..tickets.mask import masked, parse_remaining
from ..tickets.pattern import p_exponent, p_rule

SCORES = (".scores", ".popup_scores")
ORIGINAL, MASK = ".weight_orig", ".weight_mask"


def is_foreign(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds scores or masks."""
    return any(name.endswith((*SCORES, MASK)) for name in state)


def dense_state(
    state: Mapping[str, Tensor], remaining: str = "", allocation: str = "uniform"
) -> dict[str, Tensor]:
    """The state dict of the dense network with dropped weights 0, names as they were without the masks.

    remaining: the kept fraction (what the RST code calls prune-rate; the rows of others may mean the dropped
    one); allocation: 'uniform', or 'p:0.1' for binary subnetworks. Raises BadRequest where scores need a
    fraction that is not given, or do not fit their weight.
    """
    scores = {name.rpartition(".")[0]: s for name, s in state.items() if name.endswith(SCORES)}
    kept = _kept_fractions(scores, remaining, allocation) if scores else {}
    dense: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer = name.rpartition(".")[0]
        if name.endswith((*SCORES, MASK)):
            continue
        if name.endswith(ORIGINAL):
            mask = state.get(f"{layer}{MASK}")
            if mask is None or mask.shape != tensor.shape:
                raise BadRequest(f"{name} has no mask of its shape beside it")
            dense[f"{layer}.weight"] = masked(tensor, mask.bool())
        elif name == f"{layer}.weight" and layer in scores:
            dense[name] = masked(tensor, published_mask(scores[layer], kept[layer], tensor, name))
        else:
            dense[name] = tensor
    return dense


def published_mask(scores: Tensor, kept: float, weight: Tensor, name: str = "weight") -> Tensor:
    """The mask by the published rule: |scores| in ascending order, the first int((1 - k) n) dropped.

    scores: of the weight's shape, or of its first dimensions (rows, kernels, filters).
    """
    if scores.shape != weight.shape[: scores.dim()]:
        raise BadRequest(f"{name} {tuple(weight.shape)} has scores {tuple(scores.shape)} that do not fit it")
    flat = scores.abs().flatten()
    mask = torch.ones(flat.shape, dtype=torch.bool)
    mask[flat.argsort()[: int((1 - kept) * flat.numel())]] = False
    shape = tuple(scores.shape) + (1,) * (weight.dim() - scores.dim())
    return mask.view(shape).expand(weight.shape)


def _kept_fractions(scores: Mapping[str, Tensor], remaining: str, allocation: str) -> dict[str, float]:
    if not remaining:
        raise BadRequest("the file holds scores but not the kept fraction; add remaining=0.05")
    fraction = parse_remaining(remaining)
    kind, _, exponent = allocation.partition(":")
    if kind == "p":
        return p_rule({name: score.numel() for name, score in scores.items()}, fraction, p_exponent(exponent))
    if allocation != "uniform":
        raise BadRequest(f"allocation of other projects' tickets is uniform or p:0.1, got {allocation!r}")
    return dict.fromkeys(scores, float(fraction))
