"""AutoAttack (Croce and Hein, ICML 2020): APGD, FAB and Square, one after the other on what survives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ... import flags
from ...threat import Threat
from ..mixture import FastModel, Mixture, Model, mean_log_probability, members_of, one_draw
from ..spec import Crafted
from . import library
from .checks import suspicions
from .engine import attack
from .source import Source
from .stages import NAMES, VERSIONS, stages

__all__ = ["AutoAttack"]

OWN, LIBRARY = "own", "library"


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack: APGD-CE, APGD-T, FAB-T and Square, one after the other on the images that survive.

    On a plain model the images are those of the package `pyautoattack`, bit for bit. On a model with a faster
    copy the same stages take the images in another order and drop what is broken; the exact model confirms
    each success at once, and attacks a sample of the survivors itself. A switch is attacked through the log
    of its members' mean softmax. Images that were wrong from the start or survive come back clean, as the
    library returns them: they are no transfer material.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.

    Args:
        version: 'standard', 'plus' or 'rand'.
        attacks: Stages in place of a version, such as ('apgd-ce', 'square'); joined by '+' in text. They have
            the parameters of the library's version 'custom': APGD-CE and FAB restart five times, where
            'standard' starts APGD-CE once.
        sampled: Attack a switch through one random draw a call instead of the mean, which is the wrong way
            and raises `sampled-switch`.
        iterations: Steps of each run of APGD; those of FAB and Square stay the library's.
        impl: 'own', or 'library' to run the package `pyautoattack` itself.

    Raises:
        ValueError: For an unknown version, stage or impl, and fewer than one iteration.
        ModelFault: When called, where a stage cannot work on so few classes.

    Example:
        >>> import rstbench, torch
        >>> from torch import nn
        >>> x, y = rstbench.load_data("digits:test:4").at(slice(None))
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        >>> attack = rstbench.AutoAttack(attacks=("apgd-ce",))
        >>> crafted = attack(net, x, y, rstbench.Threat.parse("Linf:0.1"), torch.Generator().manual_seed(0))
        >>> list(crafted.stages), crafted.stages["apgd-ce"].shape
        (['apgd-ce'], torch.Size([4]))
    """

    version: str = "standard"
    attacks: tuple[str, ...] = ()
    sampled: bool = False
    iterations: int = 100
    impl: str = OWN

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {self.version!r}")
        if self.impl not in (OWN, LIBRARY):
            raise ValueError(f"impl must be {OWN} or {LIBRARY}, got {self.impl!r}")
        if self.attacks and self.version != "standard":
            raise ValueError("name a version or attacks, not both")
        strange = [stage for stage in self.attacks if stage not in NAMES]
        if strange:
            raise ValueError(f"no stage named {strange[0]!r}; there are: {', '.join(NAMES)}")

    @property
    def passes(self) -> int:
        """Return about how many passes an image takes that survives."""
        return sum(
            stage.cost for stage in stages(self.version, self.attacks, "Linf", self.iterations, 10).values()
        )

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        seed = int(torch.randint(0, 2**31 - 1, (1,), generator=generator, device=generator.device))
        raised: Sequence[str] = ()
        logits_of = mean_log_probability(model)
        exact = mean_log_probability(model.exact_model) if isinstance(model, FastModel) else None
        if self.sampled and isinstance(model, Mixture):
            logits_of, exact, raised = one_draw(model, generator), None, (flags.SAMPLED_SWITCH.name,)
        with torch.no_grad():
            classes = logits_of(x).shape[1]
        chain = stages(self.version, self.attacks, threat.norm, self.iterations, classes)
        x = x.contiguous()
        if self.impl == LIBRARY:
            options = library.Options(self.version, self.attacks, self.iterations)
            crafted = library.run(logits_of, x, y, threat, seed, options)
        else:
            repeat = self.version != "rand"  # which expects random answers
            raised = [*raised, *suspicions(exact or logits_of, x, y, repeat=repeat)]
            judged = model.exact_model if isinstance(model, FastModel) else model
            known = isinstance(judged, Mixture) and not self.sampled
            members = [member for weight, member in members_of(judged) if weight > 0] if known else []
            crafted = attack(Source(logits_of, exact, members), x, y, threat, chain, seed)
        return replace(crafted, flags=tuple(sorted({*crafted.flags, *raised})))
