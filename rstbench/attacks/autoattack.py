"""AutoAttack (Croce and Hein, ICML 2020), through the package `pyautoattack`.

The only module that imports `pyautoattack`. It runs the library's own code stage by stage on the
surviving images, which gives the images of one whole call and tells which stage broke each. What
the library leaves behind in the process is undone: its counters, the trace function it clears, its
logger. Its state file is never used (a restored one raises).
"""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from .. import flags
from ..errors import BadFile, ModelFault
from ..threat import Threat
from .mixture import Mixture, Model, mean_log_probability, one_draw
from .spec import Crafted

STAGES = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
# Words of the library's log lines, and the flags they stand for.
_WARNINGS = {
    "randomized defense": flags.RANDOM_OUTPUT,
    "probability distribution": flags.PROBABILITIES_NOT_LOGITS,
    "zero gradient": flags.ZERO_GRADIENT,
    "dynamic defense": flags.GRADIENT_IN_FORWARD,
}
ROUNDING = 1e-5  # images at the very edge of the ball lie beyond it by as much; they are projected back
MOST_KEPT = 2000  # images with non-finite logits that are remembered
# The margin-like DLR loss compares the largest logits: it needs this many classes.
_LEAST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4, "fab-t": 2}


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack: APGD-CE, APGD-T, FAB-T and Square, one after the other on the images that survive.

    The stages are run by the library's own code. A switch is attacked through the log of its members' mean
    softmax. Images that were wrong from the start or survive come back clean, as the library returns them:
    they are no transfer material.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.

    Args:
        version: 'standard', 'plus' or 'rand'.
        attacks: Stages in place of a version, such as ('apgd-ce', 'square'); joined by '+' in text.
        sampled: Attack a switch through one random draw a call instead of the mean, which is the wrong way
            and raises `sampled-switch`.
        iterations: Steps of each run of APGD; those of FAB and Square stay the library's.

    Raises:
        ValueError: For an unknown version or stage, and fewer than one iteration.
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

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.version not in STAGES:
            raise ValueError(f"version must be one of {', '.join(STAGES)}, got {self.version!r}")
        stages = [stage for version in STAGES.values() for stage in version]
        if self.attacks and self.version != "standard":
            raise ValueError("name a version or attacks, not both")
        strange = [stage for stage in self.attacks if stage not in stages]
        if strange:
            raise ValueError(f"no stage named {strange[0]!r}; there are: {', '.join(sorted(set(stages)))}")

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        seed = int(torch.randint(0, 2**31 - 1, (1,), generator=generator, device=generator.device))
        # `.view` in APGD-T and L2 APGD needs contiguous images.
        raised: tuple[str, ...] = ()
        logits_of = mean_log_probability(model)
        if self.sampled and isinstance(model, Mixture):
            logits_of, raised = one_draw(model, generator), (flags.SAMPLED_SWITCH.name,)
        finite, x = FiniteLogits(logits_of), x.contiguous()
        with _contained() as warnings, torch.random.fork_rng():
            crafted = self._run(finite, x, y, threat, seed, warnings)
        crafted = replace(crafted, flags=(*crafted.flags, *raised))
        return finite.broken_by_nan(crafted, x, y, threat)

    def _run(
        self, logits_of: Model, x: Tensor, y: Tensor, threat: Threat, seed: int, warnings: list[str]
    ) -> Crafted:
        """Run each stage on the images that survived the ones before."""
        library = self._library(logits_of, threat, seed, x.device)
        selected = list(self.attacks or library.attacks_to_run)
        with torch.no_grad():
            logits = logits_of(x)
        self._fit_classes(library, selected, logits.shape[1])
        images, alive = x.clone(), logits.argmax(1) == y
        stages: dict[str, Tensor] = {}
        for stage in selected:
            survivors = alive.nonzero()[:, 0]
            stages[stage] = torch.zeros_like(alive)
            if not len(survivors):
                continue
            library.attacks_to_run = [stage]
            adv, predicted = library.run_standard_evaluation(
                x[survivors], y[survivors], batch_size=len(survivors)
            )
            broken = predicted != y[survivors]
            images[survivors[broken]] = adv[broken]
            stages[stage][survivors[broken]] = True
            alive[survivors[broken]] = False
        return Crafted(images, stages, _flags(warnings))

    def _library(
        self, logits_of: Model, threat: Threat, seed: int, device: torch.device
    ) -> types.SimpleNamespace:
        from pyautoattack import AutoAttack as Library

        custom = {"version": "custom", "attacks": list(self.attacks)}
        version = custom if self.attacks else {"version": self.version}
        library: types.SimpleNamespace = Library(
            logits_of, norm=threat.norm, eps=float(threat.eps), seed=seed, device=device, **version
        )
        for part in (library.apgd, library.apgd_targeted):
            if part.n_iter != self.iterations:  # the library's own number, whatever the default here
                _set_iterations(part, self.iterations)
        return library

    def _fit_classes(self, library: types.SimpleNamespace, selected: list[str], classes: int) -> None:
        for stage in selected:
            if classes < _LEAST_CLASSES.get(stage, 2):
                raise ModelFault(
                    f"the stage {stage!r} needs at least {_LEAST_CLASSES[stage]} classes, the model has "
                    f"{classes}; try 'autoattack:attacks=apgd-ce+fab-t+square'"
                )
        for part in (library.apgd_targeted, library.fab):
            part.n_target_classes = min(part.n_target_classes, classes - 1)


class FiniteLogits:
    """Logits an attack can go on with, and the images whose logits were not finite.

    The library takes the argmax of NaN, class 0, for an answer. Here such a row becomes zeros, and the
    image that caused it is kept: it broke the model.
    """

    def __init__(self, logits_of: Model) -> None:
        self.logits_of = logits_of
        self.non_finite: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.logits_of(x)
        finite = logits.isfinite().all(1)
        if bool(finite.all()):
            return logits
        if sum(map(len, self.non_finite)) < MOST_KEPT:
            self.non_finite.append(x.detach()[~finite].clone())
        return torch.where(finite[:, None], logits, 0.0)

    def broken_by_nan(self, crafted: Crafted, x: Tensor, y: Tensor, threat: Threat) -> Crafted:
        """Return the crafted images, those that survived replaced by a kept one that lies in their ball."""
        if not self.non_finite:
            return crafted
        kept, images = torch.cat(self.non_finite), crafted.images.clone()
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        survived = ~sum((part.int() for part in crafted.stages.values()), broken.int()).bool()
        for index in survived.nonzero()[:, 0].tolist():
            near = threat.distance(x[index : index + 1].expand_as(kept), kept) <= float(threat.eps) * (
                1 + ROUNDING
            )
            if bool(near.any()):
                images[index] = threat.project(x[index : index + 1], kept[near][:1])[0]
                broken[index] = True
        return Crafted(images, {**crafted.stages, "non-finite": broken}, crafted.flags)


def _set_iterations(apgd: types.SimpleNamespace, iterations: int) -> None:
    """Set the iterations of an attack of the library, and the checkpoints that its constructor derives."""
    if apgd.use_largereps and iterations < 2:
        raise ModelFault(
            f"APGD divides its iterations among three radii in L1, got {iterations}; ask 2 or more"
        )
    apgd.n_iter = apgd.n_iter_orig = iterations  # in L1 the library divides the latter
    apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (
        max(int(share * iterations), 1) for share in (0.22, 0.06, 0.03)
    )


def _flags(warnings: list[str]) -> tuple[str, ...]:
    raised = {flag.name for words, flag in _WARNINGS.items() if any(words in line for line in warnings)}
    return tuple(sorted(raised))


@contextmanager
def _contained() -> Iterator[list[str]]:
    """Collect the library's warnings, and restore what it changes in the process."""
    from pyautoattack import checks

    warnings: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    logger, handler, trace = logging.getLogger("auto-attack"), Collect(logging.WARNING), sys.gettrace()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    # Module globals that are never reset: one dynamic model would mark every later one.
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield warnings
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        sys.settrace(trace)


def alias_for_robustbench() -> None:
    """Offer `pyautoattack` under the name `autoattack`, which RobustBench 1.1.1 imports."""
    import pyautoattack
    import pyautoattack.state

    sys.modules.setdefault("autoattack", pyautoattack)
    sys.modules.setdefault("autoattack.state", pyautoattack.state)


def example_resnet() -> nn.Module:
    """Load the CIFAR-10 ResNet-18 that AutoAttack ships with its examples, naturally trained, in eval mode.

    Raises BadFile where this installation lacks it.
    """
    folder = Path(str(files("pyautoattack"))) / "examples"
    try:
        spec = spec_from_file_location("pyautoattack_example_resnet", folder / "resnet.py")
        if spec is None or spec.loader is None:
            raise FileNotFoundError(folder)
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        state = torch.load(folder / "model_test.pt", weights_only=True, map_location="cpu")
    except OSError as error:
        raise BadFile(
            f"this installation of pyautoattack comes without its example network: {error}"
        ) from None
    net: nn.Module = module.ResNet18()
    net.load_state_dict(state)
    return net.requires_grad_(False).eval()
