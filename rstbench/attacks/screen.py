"""A short attack that foretells what AutoAttack finds, at a twentieth of its passes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..threat import Threat
from .autoattack.apgd import APGD
from .autoattack.checks import suspicions
from .autoattack.engine import attack
from .autoattack.source import Source
from .autoattack.square import Square
from .autoattack.stages import LEAST_CLASSES, Stage
from .mixture import FastModel, Model, mean_log_probability
from .spec import Crafted


@dataclass(frozen=True)
class Screen:
    """A screening attack: what it breaks is broken, what survives it may still fall to AutoAttack.

    Three stages, each on what survived the one before: APGD on cross-entropy, APGD on DLR towards the classes
    of the largest other logits, and a short random search for models whose gradients lead nowhere. An image
    that survives takes fewer than 488 passes, where standard AutoAttack takes 9,765. Use it to tell many
    models apart, not to report robustness: where it leaves clearly more images than AutoAttack, the flag
    `screen-above-autoattack` is raised.

    Source: this tool's; the stages are those of Croce and Hein, ICML 2020, and of Andriushchenko et al., ECCV
    2020, with fewer steps.

    Args:
        steps: Steps of APGD on cross-entropy.
        targets: How many classes are aimed at.
        target_steps: Steps towards each.
        queries: Windows of the random search.

    Raises:
        ValueError: For numbers below 1.

    Example:
        >>> import rstbench, torch
        >>> from torch import nn
        >>> x, y = rstbench.load_data("digits:test:4").at(slice(None))
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        >>> attack = rstbench.AttackSpec.parse("screen").attack
        >>> crafted = attack(net, x, y, rstbench.Threat.parse("Linf:0.1"), torch.Generator().manual_seed(0))
        >>> list(crafted.stages)
        ['apgd-ce', 'apgd-t', 'square']
    """

    steps: int = 20
    targets: int = 3
    target_steps: int = 40
    queries: int = 150

    def __post_init__(self) -> None:
        if min(self.steps, self.targets, self.target_steps, self.queries) < 1:
            raise ValueError(
                f"steps, targets, target_steps and queries are at least 1, got {self.steps}, {self.targets}, "
                f"{self.target_steps}, {self.queries}"
            )

    @property
    def passes(self) -> int:
        """Return about how many passes an image takes that survives."""
        return sum(stage.cost for stage in self._stages(10).values())

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        seed = int(torch.randint(0, 2**31 - 1, (1,), generator=generator, device=generator.device))
        logits_of = mean_log_probability(model)
        exact = mean_log_probability(model.exact_model) if isinstance(model, FastModel) else None
        with torch.no_grad():
            classes = logits_of(x).shape[1]
        raised = suspicions(exact or logits_of, x, y, repeat=True)
        crafted = attack(Source(logits_of, exact), x.contiguous(), y, threat, self._stages(classes), seed)
        return replace(crafted, flags=tuple(sorted({*crafted.flags, *raised})))

    def _stages(self, classes: int) -> dict[str, Stage]:
        chain: dict[str, Stage] = {"apgd-ce": APGD("ce", self.steps)}
        if classes >= LEAST_CLASSES["apgd-t"]:  # of fewer, cross-entropy leads to the nearest as well
            targets = min(self.targets, classes - 1)
            chain["apgd-t"] = APGD("dlr-targeted", self.target_steps, targets=targets)
        return {**chain, "square": Square(self.queries)}
