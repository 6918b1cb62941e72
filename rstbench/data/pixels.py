"""Read pixels as bytes or fractions of white by fixed rules, or refuse them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BadRequest

WHITE = 255
# In units of the dtype's precision: normalising and back errs by one or two, resizing by some four.
ROUNDINGS = 16
# Whole numbers above this take all eight bits.
EIGHT_BITS = 127
DARK = 0.25


def to_unit_range(x: Tensor, stored: str, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return (pixels as uint8 in 0..255 or float32 in [0, 1], notes on what was assumed).

    stored: the name of their dtype, such as 'uint16'. Fractions that rounding has put just outside [0, 1] are
    clipped. Whole numbers of another dtype than uint8 are bytes where they reach 128 to 255, and black and
    white where they are 0 and 1. Raises BadRequest for pixels whose white is not known.
    """
    if x.dtype.is_complex:
        raise BadRequest(f"{name}: pixels must be real numbers, got {stored}")
    if x.dtype == torch.bool:
        return x.float(), ()
    if x.dtype.is_floating_point:
        x, notes = _fractions(x, name)
    elif x.dtype == torch.uint8:
        if int(x.max()) == 1:
            raise BadRequest(
                f"{name}: pixels are uint8 0 to 1, all but black as bytes; where 1 is white, store "
                "x * 255, or x.astype(bool)"
            )
        notes = ()
    else:
        x, notes = _whole_numbers(x, stored, name)
    bright = float(x.max()) / (WHITE if x.dtype == torch.uint8 else 1)
    dark = f"dark: the brightest pixel is {bright:.3g} of 1 ({bright * WHITE:.3g} of 255)"
    return x, (*notes, *([dark] if bright < DARK else []))


def _whole_numbers(x: Tensor, stored: str, name: str) -> tuple[Tensor, tuple[str, ...]]:
    low, high = int(x.min()), int(x.max())
    if low >= 0 and EIGHT_BITS < high <= WHITE:
        return x.to(torch.uint8), (f"{stored} pixels {low} to {high} read as bytes",)
    if low >= 0 and high <= 1:
        return x.float(), (f"{stored} pixels 0 and 1 read as black and white",)
    helps = "store x / white as float, with white the value that white has"
    if low < 0:
        helps = "add what was subtracted; normalisation belongs into the model"
    elif high > WHITE:
        helps += ", such as x / 65535 for 16 bits"
    raise BadRequest(
        f"{name}: pixels must be uint8, or numbers in [0, 1], got {stored} {low} to {high}; {helps}"
    )


def _fractions(stored: Tensor, name: str) -> tuple[Tensor, tuple[str, ...]]:
    if not bool(stored.isfinite().all()):
        bad = int((~stored.isfinite()).sum())
        raise BadRequest(f"{name}: pixels must be finite, {bad} of {stored.numel()} are NaN or infinite")
    x = stored.float()
    low, high = float(x.min()), float(x.max())
    # Doubles often hold what was computed in single precision.
    unit = max(torch.finfo(stored.dtype).eps, torch.finfo(torch.float32).eps)
    slack = min(ROUNDINGS * unit, 1 / WHITE)
    span = f"{_digits(float(stored.min()))} to {_digits(float(stored.max()))}"
    if low < -slack or high > 1 + slack:
        raise BadRequest(
            f"{name}: pixels must be uint8, or numbers in [0, 1], got {span}; {_likely(stored, low, high)}; "
            "normalisation belongs into the model ([normalize=MEAN/STD])"
        )
    if 0 < high <= (1 + slack) / WHITE:  # 1 / 255 has its own roundings
        raise BadRequest(
            f"{name}: pixels {span} are all darker than one of 255 grey levels: divided by 255 twice, or of "
            "8 bits in files of 16; store x * 255, or files of 8 bits"
        )
    if low < 0 or high > 1:
        return x.clamp(0, 1), (f"pixels {span} clipped to [0, 1], as rounding",)
    return x, ()


def _likely(x: Tensor, low: float, high: float) -> str:
    """Tell what such numbers mostly are, and what undoes it."""
    if low >= -0.1 and high <= 1.1:
        return "where resizing has overshot, x.clip(0, 1) helps"
    if low >= 0 and EIGHT_BITS < high <= WHITE:
        return "where 255 is white, store x / 255, or whole numbers as uint8"
    if low >= -0.5 and high <= 0.5:
        return "where 0.5 was subtracted, store x + 0.5"
    if low >= -1 and high <= 1:
        return "where they were scaled to [-1, 1], store x / 2 + 0.5"
    if low >= 0 and high <= EIGHT_BITS:
        return f"{WHITE} is hardly white there; store x / white, with white the value that white has"
    mean, deviation = float(x.double().mean()), float(x.double().std(correction=0))
    where = f"(mean {mean:.3g}, deviation {deviation:.3g})"
    if low < 0:
        return f"where they were normalised {where}, store x * std + mean, divided by 255 if that is in bytes"
    return f"where another number is white {where}, store x / white"


def _digits(value: float) -> str:
    """Write as few digits as show on which side of 0 and 1 the value lies."""
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next(t for t in texts if (float(t) < 0, float(t) > 1) == (value < 0, value > 1))
