"""Normalisation that a checkpoint holds as buffers of means and deviations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ...errors import BadRequest
from ...tickets.networks.normalise import parse_normalisation

_MEAN, _STD = re.compile(r"(\w*_)?(mean|mu)"), re.compile(r"(\w*_)?(std|sigma)")


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names of means with those of deviations beside them, as normalising layers have them."""
    for name in names:
        layer, _, leaf = name.rpartition(".")
        if _MEAN.fullmatch(leaf) and leaf != "running_mean":
            for other in names:
                beside, _, end = other.rpartition(".")
                if beside == layer and _STD.fullmatch(end):
                    yield name, other


def without_normalisers(
    left: Sequence[str], state: Mapping[str, Tensor], what: str, normalize: str
) -> list[str]:
    """The names that are no normalisation. One by 0 and 1 does nothing, and one that `normalize` says again
    is put there. Raises BadRequest for any other."""
    gone = set[str]()
    for mean, std in pairs(left):
        values = [state[name].flatten().double() for name in (mean, std)]
        nothing = bool((values[0] == 0).all()) and bool((values[1] == 1).all())
        if not nothing and not _says(normalize, values):
            said = f", not by {normalize}" if normalize else ""
            text = "/".join("+".join(f"{float(value):.7g}" for value in side) for side in values)
            raise BadRequest(
                f"{what}: the file normalises by its {mean} and {std}{said}: add [normalize={text}], or "
                f"[without={mean}+{std}] where they take no part"
            )
        gone |= {mean, std}
    return [name for name in left if name not in gone]


def _says(normalize: str, values: Sequence[Tensor]) -> bool:
    """Whether a normalisation has these means and deviations, one or one a channel."""
    if not normalize:
        return False
    for side, theirs in zip(parse_normalisation(normalize), values, strict=True):
        ours = torch.tensor(side, dtype=torch.float64)
        if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
            return False
        if not bool(torch.isclose(ours, theirs, rtol=1e-5, atol=1e-6).all()):
            return False
    return True
