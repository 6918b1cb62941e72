"""What images a network takes: their channels and size, found out before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import BadRequest

RGB = 3
CONVERT = "convert the images in a file of your own: file:PATH.py:factory"


def image_shape(shape: str | Sequence[int] | None, what: str) -> tuple[int, int, int] | None:
    """(channels, height, width) out of '3x32x32' or a sequence; None where nothing is known."""
    if shape is None or shape == "":
        return None
    parts = shape.split("x") if isinstance(shape, str) else list(shape)
    if len(parts) != 3 or not all(str(part).isdigit() and int(part) for part in parts):
        raise BadRequest(f"{what}: shape reads channels x height x width, such as 3x32x32, got {shape!r}")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def channels(text: str, what: str) -> int:
    """The option in_chans as a number; 0 where it was not given."""
    if text and not (text.isdigit() and int(text)):
        raise BadRequest(f"{what}: in_chans is the number of channels of an image, got {text!r}")
    return int(text or 0)


def first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The layer that sees the images, as libraries define it: their first convolution."""
    return next(((n, part) for n, part in module.named_modules() if isinstance(part, nn.Conv2d)), None)


def convolution(like: nn.Conv2d, wanted: int) -> nn.Conv2d:
    """A new layer like another one, for images of other channels."""
    return nn.Conv2d(
        wanted,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        bias=like.bias is not None,
    )


def rechanneled(module: nn.Module, wanted: int, text: str) -> nn.Module:
    """Trained weights for images of other channels, as timm carries them over: for grey images the first
    convolution's weights are summed over its channels, for others repeated and scaled. Raises BadRequest
    where that has no meaning."""
    from timm.models import adapt_input_conv

    if getattr(module, "transform_input", False):
        raise BadRequest(f"{text} shifts each of its three channels; in_chans is for other networks")
    found = first_convolution(module)
    assert found is not None  # every classifier of torchvision begins with one
    name, before = found
    after = convolution(before, wanted)
    try:
        after.weight.data = adapt_input_conv(wanted, before.weight.data)
    except (NotImplementedError, AssertionError):
        raise BadRequest(f"{text} cannot be carried over to {wanted} channels") from None
    after.bias = before.bias
    module.set_submodule(name, after)
    return module.requires_grad_(False).eval()


def takes(module: nn.Module, in_chans: str = "") -> int:
    """The channels that a library's network was built for."""
    size = (getattr(module, "pretrained_cfg", None) or {}).get("input_size", (RGB,))
    return int(in_chans or size[0])


class Unfit(nn.Module):
    """A network that cannot take images (channels, height, width), and says why and what to do about it."""

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
def fitting(
    module: nn.Module, shape: tuple[int, int, int] | None, takes: int, *, option: bool = True
) -> nn.Module:
    """The module, where it can take images (channels, height, width) or nothing is known of them; else one
    that fails on them with words that help, so that the other models of a table are measured all the same.

    takes: its channels; option: whether in_chans would carry it over, as it does a random start and a
    library's own weights, but not the weights of a user's file.
    """
    if shape is None:
        return module
    if takes != shape[0]:
        remedy = f"; add [in_chans={shape[0]}]" if option else f"; {CONVERT}"
        noun = "channel" if takes == 1 else "channels"
        return Unfit(module, shape, f"it takes {takes} {noun}, the images have {shape[0]}{remedy}").eval()
    try:
        module(torch.full((1, *shape), 0.5))
    except Exception as error:  # of whatever layer meets too small an image, or one of another size
        said = " ".join(str(error).split())[:160] or repr(error)
        size = f"{shape[1]}x{shape[2]}"
        return Unfit(module, shape, f"images of {size} are too small, or not of its own size: {said}").eval()
    return module
