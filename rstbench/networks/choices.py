"""Choices that random networks offer, by name. No torch.

To add an initialisation, add a line to `INITS`: `tickets.init` draws from it, and recipes, the command line
and `rstbench list` take its name from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

NORMS = ("batch", "affine", "none")
BIASES = ("none", "last")
# Where the shortcut of a pre-activation block begins, at the block's input or after its first norm and ReLU:
# the networks for which there is a choice, with their default.
SHORTCUTS = {"preactresnet18": "activated", "preactresnet18-raw": "input"}


@dataclass(frozen=True)
class Initialisation:
    """Describe how the weights of a layer are drawn.

    distribution: 'signs' (-1 or 1), 'normal' (N(0, 1)) or 'uniform' (U(-1, 1)); scale: the factor for a layer
    of this fan in and fan out.
    """

    distribution: str
    scale: Callable[[int, int], float]


# The gain is that of ReLU (sqrt 2), for the classifier too, as in the code of the RST paper.
INITS = {
    "signed_constant": Initialisation("signs", lambda fan_in, fan_out: sqrt(2 / fan_in)),
    "kaiming_normal": Initialisation("normal", lambda fan_in, fan_out: sqrt(2 / fan_in)),
    "kaiming_uniform": Initialisation("uniform", lambda fan_in, fan_out: sqrt(6 / fan_in)),
    "xavier_normal": Initialisation("normal", lambda fan_in, fan_out: sqrt(2 / (fan_in + fan_out))),
    "binary": Initialisation("signs", lambda fan_in, fan_out: 1.0),
}
