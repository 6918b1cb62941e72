"""Read other projects' tickets: state dicts that keep scores or masks beside the weights.

Known forms, by the names of their tensors:
- `X.weight` and `X.scores`: hidden networks (Ramanujan et al. 2020), RST (Fu et al. 2021) and binary
  subnetworks (Liu et al. 2022); `X.popup_scores`: HYDRA (Sehwag et al. 2020). The mask is computed anew by
  the rule of their code, the largest |scores|, from the kept fraction, which the file does not hold.
- `X.weight` and `X.mask_scores`, as in movement pruning (Sanh et al. 2020): codes differ in whether the sign
  of a score counts, so the rule has to be named.
- weights and masks of zeros and ones: see `masks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import BadRequest, unknown
from ...networks.network import NetworkSpec, build, prunable
from ...tickets.allocation import p_exponent, p_rule
from ...tickets.init import weights_digest
from ...tickets.mask import apply_masks, kept_count, parse_remaining
from ...tickets.ticket import Ticket
from ...training.recipe import recipe_for
from .layer_order import reshape_like
from .masks import separate_masks
from .parametrized import without_parametrizations

SCORES = (".scores", ".popup_scores")
AMBIGUOUS = (".mask_scores",)
RULES = ("abs", "signed")
_PATTERNS = {1: "filter", 2: "kernel", 3: "row", 4: "element"}  # by the dimensions of the scores


@dataclass(frozen=True)
class MaskedState:
    """A state dict with masks.

    state: of the dense network before masking; masks: {name of the weight: True where kept}; pattern: what
    one score decides on ('element', 'row', 'kernel', 'filter'), '' where there are no scores.
    """

    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    pattern: str = ""

    def dense(self) -> dict[str, Tensor]:
        """Return the state dict with the dropped weights 0."""
        return apply_masks(self.state, self.masks)

    def renamed(self, names: Mapping[str, str], own: Mapping[str, Tensor]) -> MaskedState:
        """Take the names and shapes of a network; names: {its own: the present one}; own: its state dict."""
        state = {name: reshape_like(self.state[stored], own[name]) for name, stored in names.items()}
        masks = {n: reshape_like(self.masks[s], own[n]) for n, s in names.items() if s in self.masks}
        return MaskedState(state, masks, self.pattern)

    def prefixed(self, prefix: str) -> MaskedState:
        """Put a prefix before all names."""
        state = {prefix + name: tensor for name, tensor in self.state.items()}
        return MaskedState(state, {prefix + name: mask for name, mask in self.masks.items()}, self.pattern)


def read_masked_state(
    state: Mapping[str, Tensor], remaining: str = "", allocation: str = "uniform", scores: str = ""
) -> MaskedState:
    """Compute the masks of a checkpoint, parametrized weights included.

    remaining: the kept fraction (what the RST code calls prune-rate; other codes may mean the dropped one);
    allocation: 'uniform', or 'p:0.1' for binary subnetworks; scores: 'abs' keeps the largest |scores|,
    'signed' the largest scores, '' decides by the names. Raises BadRequest where an option that scores need
    is missing, or they do not fit their weight.
    """
    suffixes = (*SCORES, *AMBIGUOUS)
    by_layer = {name.rpartition(".")[0]: s for name, s in state.items() if name.endswith(suffixes)}
    rest = {name: tensor for name, tensor in state.items() if not name.endswith(suffixes)}
    tensors, masks = _with_masked_weight_norm(*separate_masks(without_parametrizations(rest)))
    for layer, score in by_layer.items():
        if f"{layer}.weight" not in tensors or not bool(score.isfinite().all()):
            raise BadRequest(f"the scores of {layer} are not finite, or lack their weight")
        if f"{layer}.weight" in masks:
            raise BadRequest(f"{layer} has scores and a mask; save the weights that its code uses")
    if not by_layer:
        if remaining or scores:
            raise BadRequest("remaining, scores and recipe go with files that hold scores, this one has none")
        return MaskedState(tensors, masks)
    rule = _rule(state, scores)
    kept = _kept_fractions(by_layer, remaining, allocation)
    for layer, score in by_layer.items():
        name = f"{layer}.weight"
        masks[name] = published_mask(score, kept[layer], tensors[name], name, signed=rule == "signed")
    # On 1x1 kernels every pattern looks alike.
    wide = [s for layer, s in by_layer.items() if math.prod(tensors[f"{layer}.weight"].shape[2:]) > 1]
    dims = (wide or list(by_layer.values()))[0].dim()
    return MaskedState(tensors, masks, _PATTERNS.get(dims, "element"))


def _with_masked_weight_norm(
    tensors: dict[str, Tensor], masks: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Turn masks on the direction of a weight norm (X_v beside X_g) into masks on its weight."""
    parts = {n: m for n, m in masks.items() if n.endswith("_v") and f"{n.removesuffix('_v')}_g" in tensors}
    if not parts:
        return tensors, masks
    masks = {n.removesuffix("_v") if n in parts else n: m for n, m in masks.items()}
    return without_parametrizations(apply_masks(tensors, parts)), masks


def _rule(state: Mapping[str, Tensor], scores: str) -> str:
    """Return how scores are ranked. Raises BadRequest where their names do not tell."""
    if scores and scores not in RULES:
        raise unknown("rule for scores", scores, RULES)
    ambiguous = [name for name in state if name.endswith(AMBIGUOUS)]
    if ambiguous and not scores:
        raise BadRequest(
            f"{ambiguous[0]}: codes differ in how such scores are ranked; add [scores=signed] where the "
            f"largest are kept, [scores=abs] where the largest in size"
        )
    return scores or "abs"


def to_ticket(
    checkpoint: MaskedState, spec: NetworkSpec, remaining: str, settings: Mapping[str, Any]
) -> Ticket:
    """Make a ticket, its random weights stored, of masks that scores gave.

    checkpoint: under the names of the spec's network; settings: of the recipe, as far as they are known
    (`recipe`, `data`, `threat`, `adversary`, …); init and pattern follow from weights and scores. Raises
    BadRequest where the file keeps masks only, or its weights are no random start.
    """
    if not checkpoint.pattern:
        raise BadRequest(
            "the file holds masks without scores: no search over a random network is known of it; leave out "
            "recipe to measure it as it is"
        )
    if spec.bias != "none":
        raise BadRequest(
            "a ticket's network has no biases, and the file has one on its last layer; leave out recipe to "
            "measure it as it is"
        )
    if spec.shortcut:
        raise BadRequest(
            f"a ticket's {spec.name} has other shortcuts; leave out recipe to measure it as it is"
        )
    weights = {name: checkpoint.state[name].float() for name in prunable(build(spec))}
    recipe = recipe_for(
        {
            **settings,
            "init": settings.get("init") or _infer_init(weights),
            "network": spec.name,
            **{name: getattr(spec, name) for name in ("width", "norm", "last_norm", "normalize")},
            "pattern": checkpoint.pattern,
            "kept_count": "authors",
        }
    )
    dense = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
    rest = {name: tensor for name, tensor in build(spec).state_dict().items() if name not in weights}
    ticket = Ticket(
        recipe=recipe,
        spec=spec,
        remaining=remaining,
        masks=dense | checkpoint.masks,
        buffers={name: checkpoint.state.get(name, tensor) for name, tensor in rest.items()},
        random_digest=weights_digest(weights),
        weights=weights,
        facts={"dense": [name for name in weights if name not in checkpoint.masks], "imported": True},
    )
    try:
        ticket.check_counts()
    except BadRequest as error:
        raise BadRequest(f"the masks are not those of the recipe: {error}; name its settings") from None
    return ticket


def _infer_init(weights: Mapping[str, Tensor]) -> str:
    """Return the initialisation of these weights, where one magnitude a layer is a signed constant."""
    sizes = {name: weight.abs() for name, weight in weights.items()}
    if not all(torch.allclose(size, size.flatten()[0]) for size in sizes.values()):
        raise BadRequest("the weights are no signed constants: name their start, init=kaiming_normal")
    if all(torch.allclose(size, torch.ones(())) for size in sizes.values()):
        return "binary"
    return "signed_constant"


def published_mask(
    scores: Tensor, kept: float, weight: Tensor, name: str = "weight", *, signed: bool = False
) -> Tensor:
    """Return the mask by the published rule: the largest |scores|, as many as `kept_count` says by 'authors'.

    scores: of the weight's shape, or of its first dimensions (rows, kernels, filters); signed: sort by the
    scores themselves.
    """
    if scores.shape != weight.shape[: scores.dim()]:
        raise BadRequest(f"{name} {tuple(weight.shape)} has scores {tuple(scores.shape)} that do not fit it")
    flat = (scores if signed else scores.abs()).flatten()
    mask = torch.ones(flat.shape, dtype=torch.bool)
    mask[flat.argsort()[: flat.numel() - kept_count(kept, flat.numel(), "authors")]] = False
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
