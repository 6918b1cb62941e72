"""List the choices that random networks offer, by name. Torch is loaded when weights are drawn.

To add an initialisation, add a row to `INITS`, and a function beside `signs` where its distribution is new:
recipes, the command line and `rstbench list init` take its name from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

NORM_LAYERS = ("batch", "affine", "none")
BIASES = ("none", "last")
# Where the shortcut of a pre-activation block begins, at the block's input or after its first norm and ReLU:
# the networks for which there is a choice, with their default.
SHORTCUTS = {"preactresnet18": "activated", "preactresnet18-raw": "input"}


def signs(shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw -1 or 1 with equal probabilities."""
    import torch

    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw from N(0, 1)."""
    import torch

    return torch.randn(shape, generator=generator)


def uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw from U(-1, 1)."""
    import torch

    return 2 * torch.rand(shape, generator=generator) - 1


@dataclass(frozen=True)
class Initialisation:
    """Describe how the weights of a layer are drawn.

    distribution: draws float32 values of a shape; scale: the factor for a layer of this fan in and fan out;
    portable: whether a seed gives the same bits on every machine, so that ticket files need no weights.
    """

    distribution: Callable[[Sequence[int], Generator], Tensor]
    scale: Callable[[int, int], float]
    portable: bool = False


# The gain is that of ReLU (sqrt 2), for the classifier too, as in the code of the RST paper.
INITS = {
    "signed_constant": Initialisation(signs, lambda fan_in, fan_out: sqrt(2 / fan_in), portable=True),
    "kaiming_normal": Initialisation(normal, lambda fan_in, fan_out: sqrt(2 / fan_in)),
    "kaiming_uniform": Initialisation(uniform, lambda fan_in, fan_out: sqrt(6 / fan_in)),
    "xavier_normal": Initialisation(normal, lambda fan_in, fan_out: sqrt(2 / (fan_in + fan_out))),
    "binary": Initialisation(signs, lambda fan_in, fan_out: 1.0, portable=True),
}
