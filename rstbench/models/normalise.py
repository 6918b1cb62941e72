"""Normalisation before any model: `[normalize=cifar10]` behind any reference; and which one suits a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..networks.normalise import KNOWN, is_normalisation_layer, normalisation_layer, parse_normalisation

CLEARLY = 0.10
CHANCE = 0.05  # of telling a difference where there is none, over all normalisations that are tried
OWN = ""  # the name of a model as it stands


def normalised(module: nn.Module, text: str) -> nn.Sequential:
    """The module behind a layer that maps [0, 1] pixels to (x - mean) / std.

    text: a name of `KNOWN`, or 'MEAN/STD', one number or one a channel joined by '+'. Raises BadRequest.
    """
    return nn.Sequential(normalisation_layer(*parse_normalisation(text)), module)


def right_under(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """On which images (n,) a model is right as it stands (`OWN`), and behind each known normalisation of
    these images (n, c, h, w), which takes the place of its own; 'none' for no normalisation.

    Those that it cannot take are left out.
    """
    normalises = isinstance(module, nn.Sequential) and len(module) == 2 and is_normalisation_layer(module[0])
    raw = module[1] if normalises else module  # type: ignore[index]
    found = {OWN: _right(module, x, y)}
    of_any = ("half", "bytes")
    tried = {name: known for name, known in KNOWN.items() if name in of_any or len(known[0]) == x.shape[1]}
    if normalises:
        tried["none"] = ((0.0,), (1.0,))
    for name, constants in tried.items():
        try:
            found[name] = _right(raw, normalisation_layer(*constants).to(x.device)(x), y)
        except (Exception, SystemExit):  # of whatever a foreign model does with values outside [0, 1]
            continue
    return found


def clearly_better(right: Mapping[str, Tensor]) -> str:
    """The normalisation under which a model is right on clearly more images than as it stands: by 10 points
    and three standard errors; '' where there is none."""
    best = max(right, key=lambda name: float(right[name].float().mean()))
    counts, images = [int(right[name].sum()) for name in (OWN, best)], len(right[OWN])
    # One more of each kind, or a handful of images would leave no doubt.
    shares = [(count + 1) / (images + 2) for count in counts]
    error = (sum(share * (1 - share) for share in shares) / images) ** 0.5
    return best if best and (counts[1] - counts[0]) / images >= max(CLEARLY, 3 * error) else ""


def better_by_pairs(right: Mapping[str, Tensor]) -> str:
    """The normalisation under which a model is right on most images, where that is more than as it stands
    by the paired test (McNemar's, exact); '' where there is none."""
    gains = {name: _discordant(right[OWN], bits) for name, bits in right.items() if name != OWN}
    best = max(gains, key=lambda name: gains[name][0] - gains[name][1], default="")
    if not best:
        return ""
    won, lost = gains[best]
    tail = sum(math.comb(won + lost, k) for k in range(won, won + lost + 1)) / 2 ** (won + lost)
    return best if won > lost and tail < CHANCE / len(gains) else ""


def _discordant(own: Tensor, other: Tensor) -> tuple[int, int]:
    """(images that only the other is right on, that only the model as it stands is right on)."""
    return int((other & ~own).sum()), int((own & ~other).sum())


@torch.no_grad()
def _right(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits: Tensor = module(x.clone())
    return ((logits.argmax(1) == y) & logits.isfinite().all(1)).cpu()
