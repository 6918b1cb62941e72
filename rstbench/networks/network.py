"""Build random networks from their specs.

A network is a callable `(spec) -> nn.Module` without biases. To add one, write it in the file of its family
(`conv`, `resnet`, …, or a new one) and add one line to the group `networks` of `plugins.BUILTIN`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadRequest, unknown
from ..limits import max_file_size
from ..plugins import find
from .choices import BIASES, NORM_LAYERS, SHORTCUTS
from .normalise import normalisation_layer, parse_normalisation

ORDINARY_WIDTH, ORDINARY_SIZE = 4, 2**20  # multiplier; numbers of an image, classes


@dataclass(frozen=True)
class NetworkSpec:
    """Describe a network without its weights.

    name: 'conv4'; width: multiplier of every hidden width; norm: 'batch' (batch norm without affine
    parameters, the default), 'affine' or 'none'; last_norm: batch norm without affine parameters on the
    logits, as in Liu et al. (NeurIPS 2022) for weights of +-1; normalize: a first layer for [0, 1] pixels
    (see `normalise`), '' for none; shape: (channels, height, width) of an image; bias: 'none', or 'last' for
    one on the last layer, as trained networks of other projects have it; shortcut: 'input' or 'activated',
    as networks of `SHORTCUTS` of other projects have it, '' for the network's own.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    width: float = 1.0
    norm: str = "batch"
    last_norm: bool = False
    normalize: str = ""
    bias: str = "none"
    shortcut: str = ""

    def __post_init__(self) -> None:
        if self.shortcut:
            self._check_shortcut()
        if self.bias not in BIASES:
            raise unknown("bias", self.bias, BIASES)
        if self.norm not in NORM_LAYERS:
            raise unknown("norm", self.norm, NORM_LAYERS)
        if not 0 < self.width < math.inf:
            raise BadRequest(f"width is a positive multiplier, got {self.width}")
        if not all(type(size) is int and size > 0 for size in (*self.shape, self.classes)):
            raise BadRequest(f"images and classes are whole numbers, got {self.shape}, {self.classes}")
        if self.normalize:
            channels = max(map(len, parse_normalisation(self.normalize)))
            if channels not in (1, self.shape[0]):
                raise BadRequest(
                    f"normalize {self.normalize} is for {channels} channels, images have {self.shape[0]}"
                )

    def _check_shortcut(self) -> None:
        if self.name not in SHORTCUTS:
            raise BadRequest(f"shortcut goes with {', '.join(SHORTCUTS)}, not with {self.name}")
        if self.shortcut not in SHORTCUTS.values():
            raise unknown("shortcut", self.shortcut, SHORTCUTS.values())
        if self.shortcut == SHORTCUTS[self.name]:
            object.__setattr__(self, "shortcut", "")  # one network, one spec

    def __str__(self) -> str:
        options = [f"width={self.width:g}"] if self.width != 1 else []
        options += [f"norm={self.norm}"] if self.norm != "batch" else []
        options += ["last-norm"] if self.last_norm else []
        options += [f"normalize={self.normalize}"] if self.normalize else []
        options += [f"bias={self.bias}"] if self.bias != "none" else []
        options += [f"shortcut={self.shortcut}"] if self.shortcut else []
        return f"{self.name}[{','.join(options)}]" if options else self.name

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> NetworkSpec:
        """Return the spec that a file holds, see `to_dict`. Raises KeyError or TypeError for what is none."""
        return cls(**{**plain, "shape": tuple(plain["shape"])})

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as files hold it: without `bias` and `shortcut` where they are the defaults, as in
        files that are older than these options."""
        defaults = {"bias": "none", "shortcut": ""}
        return {k: v for k, v in asdict(self).items() if k not in defaults or v != defaults[k]}


def build(spec: NetworkSpec) -> nn.Module:
    """Return a fresh module of torch classes, weights of torch's own default. Raises BadRequest."""
    _refuse_huge(spec)
    return _built(spec)


def _built(spec: NetworkSpec) -> nn.Module:
    # What no mask chooses from, such as the attention of a transformer, must not depend on global state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = find("networks", spec.name.partition(":")[0])(spec)
    if spec.bias == "last":
        _add_bias(module, spec)
    if spec.last_norm:
        module = nn.Sequential(module, nn.BatchNorm1d(spec.classes, affine=False))
    if not spec.normalize:
        return module
    return nn.Sequential(normalisation_layer(*parse_normalisation(spec.normalize)), module)


def _refuse_huge(spec: NetworkSpec) -> None:
    """Raise BadRequest for a network larger than a file may be: files name networks too."""
    channels, height, width = spec.shape
    if spec.width <= ORDINARY_WIDTH and max(spec.classes, channels * height * width) <= ORDINARY_SIZE:
        return
    try:
        size = 4 * count(replace(spec, width=min(spec.width, 1e6)))
    except (RuntimeError, OverflowError, TypeError):  # sizes beyond what torch can count
        size = sys.maxsize
    if size > max_file_size():
        raise BadRequest(
            f"{str(spec)[:200]} for images {spec.shape} and {spec.classes} classes has weights of "
            f"{size:.2g} bytes, more than --max-file-size allows"
        )


def _add_bias(module: nn.Module, spec: NetworkSpec) -> None:
    """Put a bias of zeros on the last layer, in place. Raises BadRequest where that does not give the
    logits."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    if not layers or len(layers[-1].weight) != spec.classes:
        raise BadRequest(
            f"{spec.name} does not end in a layer of {spec.classes} classes that could have a bias"
        )
    layers[-1].bias = nn.Parameter(layers[-1].weight.new_zeros(spec.classes))


def count(spec: NetworkSpec) -> int:
    """Return how many weights a ticket of this network chooses among."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in prunable(_built(spec)).values())


def narrowed(spec: NetworkSpec, weights: int) -> NetworkSpec:
    """Return the same network at the width, in ten-thousandths, whose weight count is nearest to `weights`.

    Raises BadRequest for a network whose widths are fixed.
    """
    low, high = 0, round(spec.width * 10_000)  # counts grow with the width; low is below, high at or above
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(replace(spec, width=middle / 10_000)) < weights else (low, middle)
    options = [replace(spec, width=step / 10_000) for step in (low, high) if step]
    return min(options, key=lambda option: abs(count(option) - weights))


def scaled_width(base: int, spec: NetworkSpec) -> int:
    """Return a hidden width under the spec's multiplier, at least 1."""
    return max(1, round(base * spec.width))


def norm_layers(channels: int, spec: NetworkSpec, *, flat: bool = False) -> list[nn.Module]:
    """Return the norm layer after a hidden layer, as a list; empty without norm."""
    layer = nn.BatchNorm1d if flat else nn.BatchNorm2d
    return [] if spec.norm == "none" else [layer(channels, affine=spec.norm == "affine")]


def prunable(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights a ticket chooses among: of all convolutions and linear layers, by name."""
    return {
        f"{name}.weight" if name else "weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
