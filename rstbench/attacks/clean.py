"""No attack: the clean images as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from ..threat import Threat
from .attack import Crafted


@dataclass(frozen=True)
class Clean:
    """Returns x itself."""

    def __call__(
        self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, generator: Generator
    ) -> Crafted:
        return Crafted(x.clone())
