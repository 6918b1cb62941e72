"""What each version of AutoAttack runs, with the parameters of its authors.

Source: Croce and Hein, ICML 2020 ("standard", "plus", "rand"), and ICML 2021 for L1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...errors import ModelFault
from ...threat import Threat
from .apgd import APGD
from .fab import FAB
from .pool import Pool
from .square import Square

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
NAMES = tuple(sorted({name for stages in VERSIONS.values() for name in stages}))
TARGETS, TARGETS_L1 = 9, 5  # classes that are aimed at
RESTARTS = 5
PASSES = 20  # gradients that version "rand" averages
# The margin-like DLR loss compares the largest logits: it needs this many classes.
LEAST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4, "fab-t": 2}


class Stage(Protocol):
    """A part of AutoAttack. cost: the passes, forward and backward, of an image that survives to its end."""

    @property
    def follows_gradients(self) -> bool: ...

    @property
    def cost(self) -> int: ...

    def __call__(self, pool: Pool, threat: Threat) -> None: ...


def stages(version: str, chosen: Sequence[str], norm: str, iterations: int, classes: int) -> dict[str, Stage]:
    """Return the stages by name, in their order.

    chosen: stages in place of those of a version; they have the parameters that the library gives its version
    "custom": APGD and FAB restart five times. Raises ModelFault where a stage cannot work on so few classes.
    """
    standard = version == "standard" and not chosen
    large = standard and norm == "L1"
    restarts = RESTARTS if large or chosen or version == "plus" else 1
    passes = PASSES if version == "rand" else 1
    targets = min(TARGETS, classes - 1)
    aimed = min(TARGETS_L1, targets) if large else targets
    if large and iterations < 2:
        raise ModelFault(
            f"APGD divides its iterations among three radii in L1, got {iterations}; ask 2 or more"
        )
    every: dict[str, Stage] = {
        "apgd-ce": APGD("ce", iterations, restarts, passes=passes, large_radii=large),
        "apgd-dlr": APGD("dlr", iterations, restarts, passes=passes, large_radii=large),
        "apgd-t": APGD("dlr-targeted", iterations, targets=aimed, large_radii=large),
        "fab": FAB(restarts=RESTARTS),
        "fab-t": FAB(targets=targets),
        "square": Square(),
    }
    names = list(chosen or VERSIONS[version])
    for name in names:
        if classes < LEAST_CLASSES.get(name, 2):
            raise ModelFault(
                f"the stage {name!r} needs at least {LEAST_CLASSES[name]} classes, the model has {classes}; "
                f"try 'autoattack:attacks=apgd-ce+fab-t+square'"
            )
    return {name: every[name] for name in names}
