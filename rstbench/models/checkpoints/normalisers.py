"""Find the normalisation that a checkpoint holds as means and standard deviations."""

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


def mean_std_pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of means with those of the deviations beside them, as in normalising layers."""
    stds: dict[str, list[str]] = {}
    for name in names:
        if match := _STD.fullmatch(name):
            stds.setdefault(match["of"], []).append(name)
    for name in names:
        match = _MEAN.fullmatch(name)
        if match and not name.endswith("running_mean"):
            for other in stds.get(match["of"], []):
                yield name, other


def without_normalisation(
    names: Sequence[str], state: Mapping[str, Tensor], what: str, normalize: str | None
) -> list[str]:
    """Return the names that belong to no normalisation.

    A mean of 0 with a deviation of 1, and one that equals the option `normalize`, are dropped. normalize:
    None where the option does not exist yet for this model. Raises BadRequest for any other.
    """
    dropped = set[str]()
    for mean, std in mean_std_pairs(names):
        sides = [state[name] for name in (mean, std)]
        values = [side.flatten().double() for side in sides]
        is_identity = bool((values[0] == 0).all()) and bool((values[1] == 1).all())
        if not is_identity and not _matches(normalize, values):
            given = f", not by {normalize}" if normalize else ""
            without = f"without={mean}+{std}"
            advice = _advice(sides, f",{without}" if normalize is None else "")
            raise BadRequest(
                f"{what}: the file normalises by its {mean} and {std}{given}: {advice}, or [{without}] where "
                f"they take no part"
            )
        dropped |= {mean, std}
    return [name for name in names if name not in dropped]


def _advice(sides: Sequence[Tensor], more_options: str) -> str:
    """Tell the option that gives these means and deviations."""
    if any(side.numel() > max([1, *side.shape]) or side.numel() > MOST_CHANNELS for side in sides):
        return f"no option says {sides[0].numel()} values, {OWN_CODE}"
    values = [side.flatten().double() for side in sides]
    as_stored = f"[normalize={_text(values)}{more_options}]"
    if not _of_bytes(values):
        return f"add {as_stored}"
    scaled = f"[normalize={_text([side / 255 for side in values])}{more_options}]"
    return f"add {scaled} where its code takes pixels 0..255, {as_stored} where it takes 0..1"


def _text(values: Sequence[Tensor]) -> str:
    return "/".join("+".join(f"{float(value):.7g}" for value in side) for side in values)


def _of_bytes(values: Sequence[Tensor]) -> bool:
    """Whether means or deviations are too large for pixels in [0, 1]."""
    return any(bool((side > 1).any()) for side in values)


def _matches(normalize: str | None, values: Sequence[Tensor]) -> bool:
    """Whether a normalisation has these means and deviations, those of bytes as stored or over 255."""
    if not normalize:
        return False
    return _equal(normalize, values) or (
        _of_bytes(values) and _equal(normalize, [side / 255 for side in values])
    )


def _equal(normalize: str, values: Sequence[Tensor]) -> bool:
    given = [torch.tensor(side, dtype=torch.float64) for side in parse_normalisation(normalize)]
    return all(
        (len(ours) == len(theirs) or 1 in (len(ours), len(theirs)))
        and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(given, values, strict=True)
    )
