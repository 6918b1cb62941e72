"""Check, before anything is measured, that a network takes images of the data's channels and size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import BadRequest

RGB = 3
CONVERT = "convert the images in a file of your own: file:PATH.py:factory"


def parse_shape(shape: str | Sequence[int] | None, what: str) -> tuple[int, int, int] | None:
    """Parse '3x32x32' or a sequence as (channels, height, width); None where nothing is given."""
    if shape is None or shape == "":
        return None
    parts = shape.split("x") if isinstance(shape, str) else list(shape)
    if len(parts) != 3 or not all(str(part).isdigit() and int(part) for part in parts):
        raise BadRequest(f"{what}: shape reads channels x height x width, such as 3x32x32, got {shape!r}")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def required_shape(shape: str | Sequence[int], what: str) -> tuple[int, int, int]:
    """Parse (channels, height, width). Raises BadRequest where it is missing or malformed."""
    if (parsed := parse_shape(shape, what)) is None:
        raise BadRequest(f"{what}: the shape of an image is missing; add shape=3x32x32, or --data")
    return parsed


def parse_in_chans(text: str, what: str) -> int:
    """Parse the option in_chans; 0 where it is not given."""
    if text and not (text.isdigit() and int(text)):
        raise BadRequest(f"{what}: in_chans is the number of channels of an image, got {text!r}")
    return int(text or 0)


def first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the (name, layer) that takes the images, as libraries define it: the first convolution."""
    return next(((n, part) for n, part in module.named_modules() if isinstance(part, nn.Conv2d)), None)


def replace_first_convolution(module: nn.Module, channels: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Give a network a new first convolution for images of other channels; return (old layer, new layer)."""
    first = first_convolution(module)
    assert first is not None  # every classifier of torchvision begins with one
    name, before = first
    after = nn.Conv2d(
        channels,
        before.out_channels,
        before.kernel_size,  # type: ignore[arg-type]
        before.stride,  # type: ignore[arg-type]
        before.padding,  # type: ignore[arg-type]
        bias=before.bias is not None,
    )
    module.set_submodule(name, after)
    return before, after


def adapt_channels(module: nn.Module, channels: int, text: str) -> nn.Module:
    """Adapt trained weights to images of other channels, as timm does.

    For grey images the weights of the first convolution are summed over its channels, for others repeated and
    scaled. Raises BadRequest where that has no meaning.
    """
    if channels == RGB:
        return module
    from timm.models import adapt_input_conv

    if getattr(module, "transform_input", False):
        raise BadRequest(f"{text} shifts each of its three channels; in_chans is for other networks")
    before, after = replace_first_convolution(module, channels)
    try:
        after.weight.data = adapt_input_conv(channels, before.weight.data)
    except (NotImplementedError, AssertionError):
        raise BadRequest(f"{text} cannot be carried over to {channels} channels") from None
    after.bias = before.bias
    return module.requires_grad_(False).eval()


def input_channels(module: nn.Module, in_chans: str = "") -> int:
    """Return the channels that a library's network was built for."""
    size = (getattr(module, "pretrained_cfg", None) or {}).get("input_size", (RGB,))
    return int(in_chans or size[0])


# The names of this class and of its attributes are part of the digests of models: they stay.
class Unfit(nn.Module):
    """A network that refuses images (channels, height, width), with the reason and what to do about it."""

    def __init__(self, net: nn.Module, shape: tuple[int, int, int], reason: str) -> None:
        super().__init__()
        self.net = net
        self.shape = shape
        self.reason = reason

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) == self.shape:
            raise ValueError(self.reason)
        out: Tensor = self.net(x)
        return out


@torch.no_grad()
def checked_input(
    module: nn.Module, shape: tuple[int, int, int] | None, channels: int, *, adaptable: bool = True
) -> nn.Module:
    """Return the module where it takes images (channels, height, width) or their shape is unknown.

    Else return an `Unfit` one, which fails on them alone, so that the other models of a table are measured.
    channels: those it was built for; adaptable: whether in_chans would adapt it, as it does a random start
    and a library's own weights, but not the weights of a user's file.
    """
    if shape is None:
        return module
    if channels != shape[0]:
        helps = f"; add [in_chans={shape[0]}]" if adaptable else f"; {CONVERT}"
        noun = "channel" if channels == 1 else "channels"
        return Unfit(module, shape, f"it takes {channels} {noun}, the images have {shape[0]}{helps}").eval()
    try:
        module(torch.full((1, *shape), 0.5))
    except Exception as error:  # of whatever layer meets too small an image, or one of another size
        text = " ".join(str(error).split())[:160] or repr(error)
        size = f"{shape[1]}x{shape[2]}"
        return Unfit(module, shape, f"images of {size} are too small, or not of its own size: {text}").eval()
    return module
