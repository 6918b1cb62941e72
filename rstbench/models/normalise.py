"""Put a normalisation before any model (`[normalize=cifar10]`), and find the one that suits a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from ..networks.normalise import KNOWN, is_normalisation_layer, normalisation_layer, parse_normalisation

MIN_GAIN = 0.10  # in accuracy, for a normalisation to be clearly better
ALPHA = 0.05  # significance level, over all normalisations that are tried
AS_IS = ""  # the name of a model without another normalisation


def normalised(module: nn.Module, text: str) -> nn.Sequential:
    """Return the module behind a layer that maps [0, 1] pixels to (x - mean) / std.

    text: a name of `KNOWN`, or 'MEAN/STD', one number or one a channel joined by '+'. Raises BadRequest.
    """
    return nn.Sequential(normalisation_layer(*parse_normalisation(text)), module)


def right_under(module: nn.Module, x: Tensor, y: Tensor, rows: int = 0) -> dict[str, Tensor]:
    """Tell on which images (n,) a model is right, as it is and under each known normalisation.

    x: images (n, c, h, w); y: labels (n,); rows: how many are passed at once, 0 for all. A normalisation
    takes the place of the model's own, 'none' removes it; those that the model cannot take are left out.
    """
    normalises = isinstance(module, nn.Sequential) and len(module) == 2 and is_normalisation_layer(module[0])
    raw = module[1] if normalises else module  # type: ignore[index]
    right = {AS_IS: _right(module, x, y, rows)}
    any_channels, channels = ("half", "bytes"), x.shape[1]
    candidates = {n: stats for n, stats in KNOWN.items() if n in any_channels or len(stats[0]) == channels}
    if normalises:
        candidates["none"] = ((0.0,), (1.0,))
    for name, constants in candidates.items():
        with suppress(Exception, SystemExit):  # of whatever a foreign model does with values outside [0, 1]
            right[name] = _right(raw, normalisation_layer(*constants).to(x.device)(x), y, rows)
    return right


def clearly_better(right: Mapping[str, Tensor]) -> str:
    """Return the normalisation that beats the model as it is by `MIN_GAIN` and 3 standard errors, or ''."""
    best = max(right, key=lambda name: float(right[name].float().mean()))
    counts, images = [int(right[name].sum()) for name in (AS_IS, best)], len(right[AS_IS])
    # One more of each kind, or a handful of images would leave no doubt.
    shares = [(count + 1) / (images + 2) for count in counts]
    error = (sum(share * (1 - share) for share in shares) / images) ** 0.5
    return best if best and (counts[1] - counts[0]) / images >= max(MIN_GAIN, 3 * error) else ""


def better_by_mcnemar(right: Mapping[str, Tensor]) -> str:
    """Return the best normalisation where McNemar's exact test finds it better than the own, or ''."""
    gains = {name: _discordant(right[AS_IS], bits) for name, bits in right.items() if name != AS_IS}
    best = max(gains, key=lambda name: gains[name][0] - gains[name][1], default="")
    if not best:
        return ""
    won, lost = gains[best]
    tail = sum(math.comb(won + lost, k) for k in range(won, won + lost + 1)) / 2 ** (won + lost)
    return best if won > lost and tail < ALPHA / len(gains) else ""


def _discordant(own: Tensor, other: Tensor) -> tuple[int, int]:
    """Count the images that only the other is right on, and those that only the model as it is."""
    return int((other & ~own).sum()), int((own & ~other).sum())


@torch.no_grad()
def _right(module: nn.Module, x: Tensor, y: Tensor, rows: int) -> Tensor:
    logits = torch.cat([module(piece.clone()) for piece in x.split(rows or len(x))])
    return ((logits.argmax(1) == y) & logits.isfinite().all(1)).cpu()
