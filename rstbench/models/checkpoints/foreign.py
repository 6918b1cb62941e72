"""Other projects' tickets: state dicts that keep scores or masks beside the weights, as dense ones.

Known forms, told by their names:
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
from ...tickets.mask import apply_masks, parse_remaining
from ...tickets.ticket import Ticket
from ...training.recipe import recipe_for
from .layer_order import like
from .masks import split_masks
from .parametrized import rebuilt

SCORES = (".scores", ".popup_scores")
UNCLEAR = (".mask_scores",)
RULES = ("abs", "signed")


@dataclass(frozen=True)
class Foreign:
    """state: of the dense network before any mask, names as they were without the masks; masks: of the
    weights that have one, by the same names, true where kept; pattern: what one score decides on, '' where
    there are none."""

    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    pattern: str = ""

    def dense(self) -> dict[str, Tensor]:
        """The state dict with dropped weights 0."""
        return apply_masks(self.state, self.masks)

    def under(self, names: Mapping[str, str], own: Mapping[str, Tensor]) -> Foreign:
        """The same under the names and shapes of a network: names, its own -> these; own, its state dict."""
        state = {name: like(self.state[place], own[name]) for name, place in names.items()}
        masks = {n: like(self.masks[p], own[n]) for n, p in names.items() if p in self.masks}
        return Foreign(state, masks, self.pattern)

    def behind(self, prefix: str) -> Foreign:
        """The same as a part of a larger network."""
        state = {prefix + name: tensor for name, tensor in self.state.items()}
        return Foreign(state, {prefix + name: mask for name, mask in self.masks.items()}, self.pattern)


def read_foreign(
    state: Mapping[str, Tensor], remaining: str = "", allocation: str = "uniform", scores: str = ""
) -> Foreign:
    """What a checkpoint keeps of which weights, those in parts put together.

    remaining: the kept fraction (what the RST code calls prune-rate; the rows of others may mean the dropped
    one); allocation: 'uniform', or 'p:0.1' for binary subnetworks; scores: 'abs' keeps the largest |scores|,
    'signed' the largest scores, '' what the file's names say. Raises BadRequest where scores need what is not
    given, or do not fit their weight.
    """
    ends = (*SCORES, *UNCLEAR)
    found = {name.rpartition(".")[0]: s for name, s in state.items() if name.endswith(ends)}
    full, masks = split_masks(rebuilt({n: t for n, t in state.items() if not n.endswith(ends)}))
    full, masks = _with_masked_parts(full, masks)
    for layer, score in found.items():
        if f"{layer}.weight" not in full or not bool(score.isfinite().all()):
            raise BadRequest(f"the scores of {layer} are not finite, or lack their weight")
        if f"{layer}.weight" in masks:
            raise BadRequest(f"{layer} has scores and a mask; save the weights that its code uses")
    if not found:
        if remaining or scores:
            raise BadRequest("remaining, scores and recipe go with files that hold scores, this one has none")
        return Foreign(full, masks)
    rule = _rule(state, scores)
    kept = _kept_fractions(found, remaining, allocation)
    for layer, score in found.items():
        name = f"{layer}.weight"
        masks[name] = published_mask(score, kept[layer], full[name], name, signed=rule == "signed")
    # On 1x1 kernels every pattern looks alike.
    wide = [s for layer, s in found.items() if math.prod(full[f"{layer}.weight"].shape[2:]) > 1]
    dims = (wide or list(found.values()))[0].dim()
    return Foreign(full, masks, _PATTERNS.get(dims, "element"))


def _with_masked_parts(
    full: dict[str, Tensor], masks: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same, where masks on the direction of a weight norm (X_v beside X_g) become those of its weight."""
    parts = {n: m for n, m in masks.items() if n.endswith("_v") and f"{n.removesuffix('_v')}_g" in full}
    if not parts:
        return full, masks
    whole = rebuilt(apply_masks(full, parts))
    return whole, {n.removesuffix("_v") if n in parts else n: m for n, m in masks.items()}


def _rule(state: Mapping[str, Tensor], scores: str) -> str:
    """How scores are ranked. Raises BadRequest where the names do not say."""
    if scores and scores not in RULES:
        raise unknown("rule for scores", scores, RULES)
    unclear = [name for name in state if name.endswith(UNCLEAR)]
    if unclear and not scores:
        raise BadRequest(
            f"{unclear[0]}: codes differ in how such scores are ranked; add [scores=signed] where the "
            f"largest are kept, [scores=abs] where the largest in size"
        )
    return scores or "abs"


_PATTERNS = {1: "filter", 2: "kernel", 3: "row", 4: "element"}


def as_ticket(found: Foreign, spec: NetworkSpec, remaining: str, settings: Mapping[str, Any]) -> Ticket:
    """The ticket it is, with its random weights stored.

    found: under the names of the spec's network; settings: those of the recipe that are known (`recipe`,
    `data`, `threat`, `adversary`, …); which init and pattern it was, its weights and scores tell. Raises
    BadRequest where the file keeps masks only, or its weights are no random start.
    """
    if not found.pattern:
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


def published_mask(
    scores: Tensor, kept: float, weight: Tensor, name: str = "weight", *, signed: bool = False
) -> Tensor:
    """The mask by the published rule: |scores| in ascending order, the first int((1 - k) n) dropped.

    scores: of the weight's shape, or of its first dimensions (rows, kernels, filters); signed: the scores
    themselves are ranked.
    """
    if scores.shape != weight.shape[: scores.dim()]:
        raise BadRequest(f"{name} {tuple(weight.shape)} has scores {tuple(scores.shape)} that do not fit it")
    flat = (scores if signed else scores.abs()).flatten()
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
