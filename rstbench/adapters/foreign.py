"""Other projects' tickets: state dicts that keep scores or masks beside the weights, as dense ones.

Known forms, told by their names:
- `X.weight` and `X.scores`: hidden networks (Ramanujan et al. 2020), RST (Fu et al. 2021) and binary
  subnetworks (Liu et al. 2022); `X.popup_scores`: HYDRA (Sehwag et al. 2020). The mask is computed anew by
  the rule of their code from the kept fraction, which the file does not hold.
- `X.weight_orig` and `X.weight_mask`, of biases too: torch.nn.utils.prune.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadRequest
from ..tickets.init import weights_digest
from ..tickets.mask import masked, parse_remaining
from ..tickets.networks import NetworkSpec, build, prunable
from ..tickets.pattern import p_exponent, p_rule
from ..tickets.recipe import recipe_for
from ..tickets.ticket import Ticket
from .state import fitted

SCORES = (".scores", ".popup_scores")
ORIGINAL, MASK = "_orig", "_mask"


def is_foreign(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds scores or masks."""
    return any(name.endswith((*SCORES, MASK)) for name in state)


@dataclass(frozen=True)
class Foreign:
    """state: of the dense network before any mask, names as they were without the masks; masks: of the
    weights that have one, by the same names, true where kept; pattern: what one score decides on, '' where
    masks were stored."""

    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    pattern: str = ""

    def dense(self) -> dict[str, Tensor]:
        """The state dict with dropped weights 0."""
        return {n: masked(t, self.masks[n]) if n in self.masks else t for n, t in self.state.items()}

    def like(self, module: nn.Module, *, ordered: bool = True) -> Foreign:
        """The same under the names and shapes of a module, matched by order where the names are others."""
        # Masks travel as 1 (dropped) and 2 (kept), whatever has none as 0.
        marked = {n: self.masks[n] + 1.0 if n in self.masks else torch.zeros(t.shape)
                  for n, t in self.state.items()}  # fmt: skip
        state, marked = (fitted(module, one, ordered=ordered) for one in (self.state, marked))
        masks = {name: mark == 2 for name, mark in marked.items() if bool((mark > 0).any())}
        return Foreign(state, masks, self.pattern)

    def behind(self, prefix: str, more: Mapping[str, Tensor]) -> Foreign:
        """The same as a part of a larger network, whose other tensors are given."""
        state = {**more, **{prefix + name: tensor for name, tensor in self.state.items()}}
        return Foreign(state, {prefix + name: mask for name, mask in self.masks.items()}, self.pattern)


def read_foreign(state: Mapping[str, Tensor], remaining: str = "", allocation: str = "uniform") -> Foreign:
    """What another project's checkpoint keeps of which weights.

    remaining: the kept fraction (what the RST code calls prune-rate; the rows of others may mean the dropped
    one); allocation: 'uniform', or 'p:0.1' for binary subnetworks. Raises BadRequest where scores need a
    fraction that is not given, or do not fit their weight.
    """
    scores = {name.rpartition(".")[0]: s for name, s in state.items() if name.endswith(SCORES)}
    for layer, score in scores.items():
        if f"{layer}.weight" not in state or not bool(score.isfinite().all()):
            raise BadRequest(f"the scores of {layer} are not finite, or lack their weight")
    kept = _kept_fractions(scores, remaining, allocation) if scores else {}
    full, masks = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in state.items():
        layer = name.rpartition(".")[0]
        if name.endswith((*SCORES, MASK)):
            continue
        if name.endswith(ORIGINAL):
            plain = name.removesuffix(ORIGINAL)
            mask = state.get(plain + MASK)
            if mask is None or mask.shape != tensor.shape or not bool(((mask == 0) | (mask == 1)).all()):
                raise BadRequest(f"{name} has no mask of its shape, of zeros and ones, beside it")
            full[plain], masks[plain] = tensor, mask.bool()
        else:
            full[name] = tensor
            if name == f"{layer}.weight" and layer in scores:
                masks[name] = published_mask(scores[layer], kept[layer], tensor, name)
    # On 1x1 kernels every pattern looks alike.
    wide = [s for layer, s in scores.items() if math.prod(full[f"{layer}.weight"].shape[2:]) > 1]
    dims = (wide or list(scores.values()) or [torch.empty(0)])[0].dim()
    return Foreign(full, masks, _PATTERNS.get(dims, "element") if scores else "")


_PATTERNS = {1: "filter", 2: "kernel", 3: "row", 4: "element"}


def as_ticket(found: Foreign, spec: NetworkSpec, remaining: str, settings: Mapping[str, Any]) -> Ticket:
    """The ticket it is, with its random weights stored.

    found: under the names of the spec's network; settings: those of the recipe that are known (`recipe`,
    `data`, `threat`, `adversary`, …); which init and pattern it was, its weights and scores tell. Raises
    BadRequest where the file keeps masks only, or its weights are no random start.
    """
    if not found.pattern:
        raise BadRequest(
            "the file holds masks without scores: no search over a random network is known of it"
        )
    weights = {name: found.state[name].float() for name in prunable(build(spec))}
    recipe = recipe_for(
        {
            **settings,
            "init": settings.get("init") or _init_of(weights),
            "network": spec.name,
            "width": spec.width,
            "norm": spec.norm,
            "last_norm": spec.last_norm,
            "normalize": spec.normalize,
            "pattern": found.pattern,
            "kept_count": "authors",
        }
    )
    full = {
        name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()
    } | found.masks
    rest = {name: tensor for name, tensor in build(spec).state_dict().items() if name not in weights}
    ticket = Ticket(
        recipe=recipe,
        spec=spec,
        remaining=remaining,
        masks=full,
        buffers={name: found.state.get(name, tensor) for name, tensor in rest.items()},
        random_digest=weights_digest(weights),
        weights=weights,
        facts={"dense": [name for name in weights if name not in found.masks], "imported": True},
    )
    try:
        ticket.check_counts()
    except BadRequest as error:
        raise BadRequest(f"the masks are not those of the recipe: {error}; name its settings") from None
    return ticket


def _init_of(weights: Mapping[str, Tensor]) -> str:
    """Which init drew these weights, as far as they tell: one magnitude a layer is a signed constant."""
    sizes = {name: weight.abs() for name, weight in weights.items()}
    if not all(torch.allclose(size, size.flatten()[0]) for size in sizes.values()):
        raise BadRequest("the weights are no signed constants: name their start, init=kaiming_normal")
    if all(torch.allclose(size, torch.ones(())) for size in sizes.values()):
        return "binary"
    return "signed_constant"


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
