"""Between images (n, c, h, w) of any number and a graph that was written for another form of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...errors import BadRequest

ORDERS = ("nchw", "nhwc")
COLOURS = (1, 3)  # channels that images have, where a file is to tell them from heights and widths
AGREE = 1e-3  # largest difference of logits, relative to the largest logit
SINGLY = "takes one image at once: it is asked image by image, in batches of any size"
Size = int | None  # None where the graph leaves it free


@dataclass(frozen=True)
class Layout:
    """shape: (channels, height, width) of the images; form: of one as the graph takes it, without the batch;
    last: whether channels come last; single: whether it takes one image at once; dtype: of its numbers."""

    shape: tuple[int, int, int]
    form: tuple[int, ...]
    last: bool
    single: bool
    dtype: torch.dtype = torch.float32

    @property
    def plain(self) -> bool:
        """Whether the graph takes images as they are."""
        return not self.last and self.form == self.shape and not self.single and self.dtype == torch.float32

    def into(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) as the graph takes them."""
        ordered = x.permute(0, 2, 3, 1) if self.last else x
        return ordered.reshape(len(x), *self.form).to(self.dtype)


class Relaid(nn.Module):
    """A graph behind its layout: images (n, c, h, w) in float32 to logits in float32."""

    def __init__(self, net: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.net = net
        self.form, self.last, self.single = layout.form, layout.last, layout.single
        self.dtype = layout.dtype

    def forward(self, x: Tensor) -> Tensor:
        ordered = x.permute(0, 2, 3, 1) if self.last else x
        x = ordered.reshape(len(x), *self.form).to(self.dtype)
        logits: Tensor = torch.cat([self.net(one) for one in x.split(1)]) if self.single else self.net(x)
        return logits.to(torch.float32)


def layout_of(
    sizes: Sequence[Size],
    shape: tuple[int, int, int] | None,
    order: str,
    dtype: torch.dtype,
    what: str,
) -> Layout:
    """How images go into a graph whose input has these sizes, the batch first.

    shape: of the images where it is known; order: 'nchw' or 'nhwc' where the user said so, else ''. Raises
    BadRequest where they cannot go in, where the file does not tell, and for other batches than free ones and
    single images.
    """
    if order not in ("", *ORDERS):
        raise BadRequest(f"{what}: layout is nchw or nhwc, got {order!r}")
    if not sizes:
        raise BadRequest(f"{what} takes a single number, wanted images")
    batch, form = sizes[0], tuple(sizes[1:])
    if batch not in (None, 1):
        raise BadRequest(
            f"{what} takes {batch} images at once only; export it with a free batch size, or for one image"
        )
    single = batch == 1
    if shape is None:
        shape = _own_shape(form, order, what)
    channels, height, width = shape
    orders = [order] if order else list(ORDERS)
    if len(form) == 3:
        fit = {"nchw": shape, "nhwc": (height, width, channels)}
        found = next((one for one in orders if _takes(form, fit[one])), None)
        if found is None:
            given = " x ".join("any" if size is None else str(size) for size in form)
            raise BadRequest(f"{what} takes images of {given}, the data has {channels} x {height} x {width}")
        return Layout(shape, fit[found], found == "nhwc", single, dtype)
    if len(form) == 2 and channels == 1 and _takes(form, (height, width)):
        return Layout(shape, (height, width), False, single, dtype)
    if len(form) == 1 and _takes(form, (channels * height * width,)):
        if channels > 1 and not order:
            raise BadRequest(
                f"{what} takes {channels * height * width} numbers an image, their order is not in the file; "
                f"add [layout=nchw] (channel by channel, as torch flattens) or [layout=nhwc] (pixel by pixel)"
            )
        return Layout(shape, (channels * height * width,), order == "nhwc", single, dtype)
    given = " x ".join("any" if size is None else str(size) for size in form)
    raise BadRequest(f"{what} takes inputs of {given}, the data has images {channels} x {height} x {width}")


def _takes(form: Sequence[Size], wanted: Sequence[int]) -> bool:
    return len(form) == len(wanted) and all(a is None or a == b for a, b in zip(form, wanted, strict=True))


def _own_shape(form: Sequence[Size], order: str, what: str) -> tuple[int, int, int]:
    """The shape that the file itself tells."""
    if len(form) != 3 or None in form:
        raise BadRequest(f"{what}: the shape of an image is not in the file; add --data")
    first, middle, last = (int(size or 0) for size in form)
    behind = order == "nhwc" or (not order and first not in COLOURS and last in COLOURS)
    return (last, first, middle) if behind else (first, middle, last)


def checked(
    net: nn.Module,
    layout: Layout,
    what: str,
    truth: Callable[[Tensor], Tensor] | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """(the network behind its layout, what to tell of that), once it is known to answer two images as it
    answers each alone, one image at a time where it can only do that, and each as `truth` does: the file's
    own runtime, which takes what the layout makes of images. Raises BadRequest."""
    x = torch.rand((2, *layout.shape), generator=torch.Generator().manual_seed(0))
    truth = truth or net
    alone = torch.cat([_logits(truth, layout.into(image[None]), what) for image in x])
    again = torch.cat([_logits(truth, layout.into(image[None]), what) for image in x])
    if not _near(again, alone):
        raise BadRequest(
            f"{what} answers the same image differently each time; export it in eval mode, without dropout"
        )
    if not layout.single:
        layout = _free_or_single(truth, layout, x, alone, what)
    module = net if layout.plain else Relaid(net, layout).eval()
    try:
        with torch.no_grad():
            found = module(x)
    except Exception as error:  # of whatever either meets in the graph
        raise BadRequest(f"{what} does not take images {layout.shape}: {line(error)}") from None
    if found.shape != alone.shape or not _near(found, alone):
        apart = f"{float((found - alone).abs().max()):g} apart" if found.shape == alone.shape else "others"
        raise BadRequest(f"{what} computes other logits as a torch module: {apart}")
    return module, (SINGLY,) if layout.single else ()


def _free_or_single(
    truth: Callable[[Tensor], Tensor], layout: Layout, x: Tensor, alone: Tensor, what: str
) -> Layout:
    """A free batch size may be said and not kept, as where a reshape has the number 1 in it."""
    try:
        together = _logits(truth, layout.into(x), what)
    except BadRequest:
        together = torch.empty(0)
    if together.shape != alone.shape:
        return replace(layout, single=True)
    if not _near(together, alone):
        raise BadRequest(
            f"{what} answers an image differently beside others; export it in eval mode (batch norm uses its "
            f"running statistics there), for a free batch size"
        )
    return layout


@torch.no_grad()
def _logits(truth: Callable[[Tensor], Tensor], x: Tensor, what: str) -> Tensor:
    """Logits (n, classes) in float32."""
    try:
        logits = truth(x)
    except Exception as error:  # of whatever the runtime meets in the graph
        raise BadRequest(f"{what} does not take images: {line(error)}") from None
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() != 2:
        kind = type(logits).__name__
        if isinstance(logits, Tensor):
            kind = f"{str(logits.dtype).removeprefix('torch.')} {tuple(logits.shape)}"
        raise BadRequest(f"{what}: wanted logits of shape (n, classes), got {kind}")
    if len(logits) != len(x):
        raise BadRequest(f"{what} gives {len(logits)} answers to {len(x)} images")
    if not logits.isfinite().all():
        raise BadRequest(f"{what} gives logits that are not finite on random images")
    return logits.float()


def _near(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    return bool((found - wanted).abs().max() <= AGREE * max(1.0, float(wanted.abs().max())))


def line(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [repr(error)])[0][:200]
