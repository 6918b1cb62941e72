"""Bare state dicts: `weights:FILE[arch=NETWORK]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ...errors import BadRequest
from ...harness.trial import Card
from ...tickets.networks import NetworkSpec, build, prunable
from ..entry import Entry, enter, load_entry
from ..foreign import dense_state, is_foreign
from ..state import by_order, put_state, read_state


def weights(
    id: str,
    arch: str = "",
    width: str = "1",
    norm: str = "batch",
    classes: str | int = "",
    shape: str | Sequence[int] = "",
    remaining: str = "",
    allocation: str = "uniform",
) -> Entry:
    """`weights:FILE[arch=resnet18,norm=affine]` for a network of this tool, `[arch=timm:NAME]` or
    `[arch=torchvision:NAME]` for a library's.

    classes and shape (channels x height x width, such as 3x32x32) are those of the data unless given. Files
    that hold scores or masks beside the weights, as other projects' tickets do, become dense (see
    `adapters.foreign`); scores need the kept fraction, `[remaining=0.05]`. Other names are matched by order.
    Raises BadRequest with the first names that differ.
    """
    if not arch:
        raise BadRequest(f"weights:{id} are weights only; name their network, [arch=resnet18]")
    state, text = read_state(Path(id)), f"weights:{id}[arch={arch}]"
    if is_foreign(state):
        state = dense_state(state, remaining, allocation)
    elif remaining:
        raise BadRequest(f"{text}: remaining goes with files that hold scores, this one has none")
    if arch.partition(":")[0] in ("torchvision", "timm"):
        random = load_entry(f"{arch}[classes={classes}]" if classes else arch)
        fitting = _fitting(random.module, state, text)
        return enter(fitting, Card(text, "external"), made_by=text)
    spec = NetworkSpec(arch, _shape(shape, text), _number(classes, "classes", text), _width(width), norm)
    module = _fitting(build(spec), state, text)
    total = sum(weight.numel() for weight in prunable(module).values())
    kept = sum(int(weight.count_nonzero()) for weight in prunable(module).values())
    card = Card(text, "external", "", str(spec), round(kept / total, 6), kept, total)
    return enter(module, card, made_by=str(spec))


def _fitting(module: nn.Module, state: dict[str, Tensor], text: str) -> nn.Module:
    """The module with the state, by names, or by order where the names are others."""
    if set(state) - set(module.state_dict()):
        state = by_order(module, state)
    return put_state(module, state, text)


def _shape(shape: str | Sequence[int], text: str) -> tuple[int, int, int]:
    parts = shape.split("x") if isinstance(shape, str) else list(shape)
    if len(parts) != 3 or not all(str(part).isdigit() and int(part) for part in parts):
        raise BadRequest(f"{text}: the shape of an image is missing; add shape=3x32x32, or --data")
    channels, height, breadth = (int(part) for part in parts)
    return channels, height, breadth


def _number(value: str | int, name: str, text: str) -> int:
    if not str(value).isdigit() or int(value) == 0:
        raise BadRequest(f"{text}: {name} is missing; add {name}=10, or --data")
    return int(value)


def _width(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"width is a number, got {text!r}") from None
