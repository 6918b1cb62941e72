"""Adapt images (n, c, h, w) to a graph with another axis order, flat inputs or a batch size of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...errors import BadRequest, first_line

ORDERS = ("nchw", "nhwc")
CHANNELS = (1, 3)  # by which channels are told from heights and widths
AGREE = 1e-3  # largest difference of logits, relative to the largest logit
ONE_BY_ONE = "takes one image at once: it is asked image by image, in batches of any size"
Size = int | None  # None where the graph leaves it free


@dataclass(frozen=True)
class InputLayout:
    """How a graph takes images.

    shape: (channels, height, width) of the images; input_shape: of one as the graph takes it, without the
    batch; channels_last: whether they are transposed to (n, h, w, c); batch_of_one: whether it takes one
    image at once; dtype: of its input.
    """

    shape: tuple[int, int, int]
    input_shape: tuple[int, ...]
    channels_last: bool
    batch_of_one: bool
    dtype: torch.dtype = torch.float32

    @property
    def is_plain(self) -> bool:
        """Whether the graph takes images as they are."""
        same = self.input_shape == self.shape and self.dtype == torch.float32
        return same and not self.channels_last and not self.batch_of_one

    def transform(self, x: Tensor) -> Tensor:
        """Return images (n, c, h, w) as the graph takes them."""
        ordered = x.permute(0, 2, 3, 1) if self.channels_last else x
        return ordered.reshape(len(x), *self.input_shape).to(self.dtype)


# The names of this class and of its attributes are part of the digests of models: they stay.
class Relaid(nn.Module):
    """A graph behind its input layout: images (n, c, h, w) in float32 to logits in float32."""

    def __init__(self, net: nn.Module, layout: InputLayout) -> None:
        super().__init__()
        self.net = net
        self.form, self.last, self.single = layout.input_shape, layout.channels_last, layout.batch_of_one
        self.dtype = layout.dtype

    def forward(self, x: Tensor) -> Tensor:
        ordered = x.permute(0, 2, 3, 1) if self.last else x
        x = ordered.reshape(len(x), *self.form).to(self.dtype)
        logits: Tensor = torch.cat([self.net(one) for one in x.split(1)]) if self.single else self.net(x)
        return logits.to(torch.float32)


def input_layout(
    sizes: Sequence[Size], shape: tuple[int, int, int] | None, order: str, dtype: torch.dtype, what: str
) -> InputLayout:
    """Find how images go into a graph whose input has these sizes, the batch first.

    shape: of the images where it is known; order: 'nchw' or 'nhwc' where the user gave it, else ''. Raises
    BadRequest where they do not fit, where the file does not tell, and for fixed batches of several images.
    """
    if order not in ("", *ORDERS):
        raise BadRequest(f"{what}: layout is nchw or nhwc, got {order!r}")
    if not sizes:
        raise BadRequest(f"{what} takes a single number, wanted images")
    batch, expected = sizes[0], tuple(sizes[1:])
    if batch not in (None, 1):
        raise BadRequest(
            f"{what} takes {batch} images at once only; export it with a free batch size, or for one image"
        )
    of_one = batch == 1
    if shape is None:
        shape = _shape_in_file(expected, order, what)
    channels, height, width = shape
    given = " x ".join("any" if size is None else str(size) for size in expected)
    if len(expected) == 3:
        input_shapes = {"nchw": shape, "nhwc": (height, width, channels)}
        orders = [order] if order else list(ORDERS)
        fitting = next((order for order in orders if _accepts(expected, input_shapes[order])), None)
        if fitting is None:
            raise BadRequest(f"{what} takes images of {given}, the data has {channels} x {height} x {width}")
        return InputLayout(shape, input_shapes[fitting], fitting == "nhwc", of_one, dtype)
    if len(expected) == 2 and channels == 1 and _accepts(expected, (height, width)):
        return InputLayout(shape, (height, width), False, of_one, dtype)
    size = channels * height * width
    if len(expected) == 1 and _accepts(expected, (size,)):
        if channels > 1 and not order:
            raise BadRequest(
                f"{what} takes {size} numbers an image, their order is not in the file; "
                f"add [layout=nchw] (channel by channel, as torch flattens) or [layout=nhwc] (pixel by pixel)"
            )
        return InputLayout(shape, (size,), order == "nhwc", of_one, dtype)
    raise BadRequest(f"{what} takes inputs of {given}, the data has images {channels} x {height} x {width}")


def _accepts(expected: Sequence[Size], sizes: Sequence[int]) -> bool:
    return len(expected) == len(sizes) and all(a in (None, b) for a, b in zip(expected, sizes, strict=True))


def _shape_in_file(expected: Sequence[Size], order: str, what: str) -> tuple[int, int, int]:
    """Return (channels, height, width) as the graph itself fixes them. Raises BadRequest."""
    if len(expected) != 3 or None in expected:
        raise BadRequest(f"{what}: the shape of an image is not in the file; add --data")
    first, middle, last = (int(size or 0) for size in expected)
    is_nhwc = order == "nhwc" or (not order and first not in CHANNELS and last in CHANNELS)
    return (last, first, middle) if is_nhwc else (first, middle, last)


def checked_module(
    net: nn.Module, layout: InputLayout, what: str, runtime: Callable[[Tensor], Tensor] | None = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return (the network behind its layout, notes), with logits compared on two random images.

    runtime: the file's own, which takes inputs as the graph does; by default the network itself. Raises
    BadRequest where logits differ from the runtime's, from one call to the next, or with the batch.
    """
    x = torch.rand((2, *layout.shape), generator=torch.Generator().manual_seed(0))
    runtime = runtime or net
    alone = torch.cat([_logits(runtime, layout.transform(image[None]), what) for image in x])
    again = torch.cat([_logits(runtime, layout.transform(image[None]), what) for image in x])
    if not _close(again, alone):
        raise BadRequest(
            f"{what} answers the same image differently each time; export it in eval mode, without dropout"
        )
    if not layout.batch_of_one:
        layout = _with_true_batch(runtime, layout, x, alone, what)
    module = net if layout.is_plain else Relaid(net, layout).eval()
    try:
        with torch.no_grad():
            logits = module(x)
    except Exception as error:  # of whatever either meets in the graph
        raise BadRequest(f"{what} does not take images {layout.shape}: {first_line(error)}") from None
    if not _close(logits, alone):
        same_shape = logits.shape == alone.shape
        difference = f"{float((logits - alone).abs().max()):g} apart" if same_shape else "others"
        raise BadRequest(f"{what} computes other logits as a torch module: {difference}")
    return module, (ONE_BY_ONE,) if layout.batch_of_one else ()


def _with_true_batch(
    runtime: Callable[[Tensor], Tensor], layout: InputLayout, x: Tensor, alone: Tensor, what: str
) -> InputLayout:
    """Find whether a free batch size holds: a reshape in the graph may have the number 1 in it."""
    try:
        together = _logits(runtime, layout.transform(x), what)
    except BadRequest:
        together = torch.empty(0)
    if together.shape != alone.shape:
        return replace(layout, batch_of_one=True)
    if not _close(together, alone):
        raise BadRequest(
            f"{what} answers an image differently beside others; export it in eval mode (batch norm uses its "
            f"running statistics there), for a free batch size"
        )
    return layout


@torch.no_grad()
def _logits(runtime: Callable[[Tensor], Tensor], x: Tensor, what: str) -> Tensor:
    """Return logits (n, classes) in float32. Raises BadRequest for anything else."""
    try:
        logits = runtime(x)
    except Exception as error:  # of whatever the runtime meets in the graph
        raise BadRequest(f"{what} does not take images: {first_line(error)}") from None
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


def _close(logits: Tensor, expected: Tensor) -> bool:
    if logits.shape != expected.shape:
        return False
    return bool((logits - expected).abs().max() <= AGREE * max(1.0, float(expected.abs().max())))
