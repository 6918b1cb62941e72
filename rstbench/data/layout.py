"""Find the axis of the channels in an array of images, from its shape or the source's own word."""

from __future__ import annotations

from torch import Tensor

from ..errors import BadRequest

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
FIRST, LAST = "nchw", "nhwc"
SAY = f"say which: an npz file by an array layout ({FIRST!r} or {LAST!r}), a source by Found(…, layout=…)"


def channels_first(x: Tensor, count: int, name: str, layout: str = "") -> tuple[Tensor, tuple[str, ...]]:
    """Return (images (n, c, h, w), notes).

    x: (n, c, h, w), (n, h, w, c) or, grey, (n, h, w); count: the number of labels; layout: 'nchw' or 'nhwc'
    where the source knows. Channels are the axis of 1, 3 or 4; where that is both of them or none, the one
    that leaves images square. Raises BadRequest where neither tells, and for other shapes.
    """
    if layout not in ("", FIRST, LAST):
        raise BadRequest(f"{name}: a layout is {FIRST!r} or {LAST!r}, got {layout!r}")
    if x.dim() not in (3, 4) or len(x) != count:
        raise BadRequest(_other_shape(x, count, name))
    shape = tuple(x.shape[1:])
    if x.dim() == 3:
        if not layout and shape[0] != shape[1] and set(shape) & set(CHANNELS):
            raise BadRequest(
                f"{name}: images {_text(shape)} may be grey, or channels of pixels in a row; reshape them to "
                "(n, c, h, w)"
            )
        return x[:, None], ()
    layout = layout or _infer(shape)
    if not layout:
        raise BadRequest(f"{name}: images {_text(shape)} may be (n, c, h, w) or (n, h, w, c); {SAY}")
    if layout == LAST:
        return x.permute(0, 3, 1, 2), (f"images {_text(shape)} transposed to (n, c, h, w)",)
    return x, () if shape[0] in CHANNELS else (f"images {_text(shape)} have {shape[0]} channels",)


def _infer(shape: tuple[int, ...]) -> str:
    """Return the layout of images of this shape, '' where it is not clear."""
    if set(shape) == {1}:
        return FIRST  # one pixel is the same either way
    first, last = shape[0] in CHANNELS, shape[2] in CHANNELS
    if first == last:
        first, last = shape[1] == shape[2], shape[0] == shape[1]
    return "" if first == last else FIRST if first else LAST


def _text(shape: tuple[int, ...]) -> str:
    return f"(n, {', '.join(map(str, shape))})"


def _other_shape(x: Tensor, count: int, name: str) -> str:
    problem = f"{name}: wanted images (n, c, h, w) and labels (n,), got {tuple(x.shape)} and ({count},)"
    if x.dim() == 2 and len(x) == count:
        return f"{problem}; flat images want reshaping, x.reshape(-1, c, h, w)"
    if x.dim() == 4 and x.shape[3] == count:
        return f"{problem}; where images come last, x.transpose(3, 2, 0, 1) helps"
    return problem
