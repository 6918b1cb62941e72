"""Normalisation that a checkpoint holds as buffers of means and deviations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ...errors import BadRequest
from ...networks.normalise import parse_normalisation
from .formats import OWN_CODE

# Logarithms and inverses are other numbers.
_MEAN, _STD = (
    re.compile(rf"(?P<of>(.*\.)?(?!log_|inv_)(\w*_)?)({kind})") for kind in ("means?|mu", "stds?|sigma")
)
MOST_CHANNELS = 16


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names of means with those of deviations beside them that are called alike, as in normalising layers."""
    stds: dict[str, list[str]] = {}
    for name in names:
        if match := _STD.fullmatch(name):
            stds.setdefault(match["of"], []).append(name)
    for name in names:
        match = _MEAN.fullmatch(name)
        if match and not name.endswith("running_mean"):
            for other in stds.get(match["of"], []):
                yield name, other


def without_normalisers(
    left: Sequence[str], state: Mapping[str, Tensor], what: str, normalize: str | None
) -> list[str]:
    """The names that are no normalisation. One by 0 and 1 does nothing, and one that `normalize` says again
    is put there; None: it will be, and whoever says it says too that these take no part. Raises BadRequest
    for any other."""
    known = set[str]()
    for mean, std in pairs(left):
        sides = [state[name] for name in (mean, std)]
        values = [side.flatten().double() for side in sides]
        nothing = bool((values[0] == 0).all()) and bool((values[1] == 1).all())
        if not nothing and not _says(normalize, values):
            said = f", not by {normalize}" if normalize else ""
            gone = f"without={mean}+{std}"
            advice = _advice(sides, f",{gone}" if normalize is None else "")
            raise BadRequest(
                f"{what}: the file normalises by its {mean} and {std}{said}: {advice}, or [{gone}] where "
                f"they take no part"
            )
        known |= {mean, std}
    return [name for name in left if name not in known]


def _advice(sides: Sequence[Tensor], more: str) -> str:
    """How to say these means and deviations; more: options that go with it."""
    if any(side.numel() > max([1, *side.shape]) or side.numel() > MOST_CHANNELS for side in sides):
        return f"no option says {sides[0].numel()} values, {OWN_CODE}"
    values = [side.flatten().double() for side in sides]
    plain = f"[normalize={_text(values)}{more}]"
    if not _of_bytes(values):
        return f"add {plain}"
    scaled = _text([side / 255 for side in values])
    return f"add [normalize={scaled}{more}] where its code takes pixels 0..255, {plain} where it takes 0..1"


def _text(values: Sequence[Tensor]) -> str:
    return "/".join("+".join(f"{float(value):.7g}" for value in side) for side in values)


def _of_bytes(values: Sequence[Tensor]) -> bool:
    """Whether means or deviations are too large for pixels in [0, 1]."""
    return any(bool((side > 1).any()) for side in values)


def _says(normalize: str | None, values: Sequence[Tensor]) -> bool:
    """Whether a normalisation has these means and deviations, one or one a channel; those of bytes as they
    are, or as they are for pixels in [0, 1]."""
    if not normalize:
        return False
    return _equal(normalize, values) or (
        _of_bytes(values) and _equal(normalize, [side / 255 for side in values])
    )


def _equal(normalize: str, values: Sequence[Tensor]) -> bool:
    for side, theirs in zip(parse_normalisation(normalize), values, strict=True):
        ours = torch.tensor(side, dtype=torch.float64)
        if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
            return False
        if not bool(torch.isclose(ours, theirs, rtol=1e-5, atol=1e-6).all()):
            return False
    return True
