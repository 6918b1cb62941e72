"""AutoAttack through the package `pyautoattack`: what the engine beside it is compared with.

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
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from torch import Tensor, nn

from ... import flags
from ...errors import BadFile
from ...threat import Threat
from ..mixture import Model
from ..spec import Crafted

# Words of the library's log lines, and the flags they stand for.
_WARNINGS = {
    "randomized defense": flags.RANDOM_OUTPUT,
    "probability distribution": flags.PROBABILITIES_NOT_LOGITS,
    "zero gradient": flags.ZERO_GRADIENT,
    "dynamic defense": flags.GRADIENT_IN_FORWARD,
}
ROUNDING = 1e-5  # images at the very edge of the ball lie beyond it by as much; they are projected back
MOST_KEPT = 2000  # images with non-finite logits that are remembered


@dataclass(frozen=True)
class Options:
    """What is run. attacks: stages in place of those of the version; iterations: of APGD."""

    version: str = "standard"
    attacks: tuple[str, ...] = ()
    iterations: int = 100


def run(
    logits_of: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    seed: int,
    options: Options,
) -> Crafted:
    """Run the library's own code on images x (n, c, h, w), stage by stage on those that survive."""
    finite = FiniteLogits(logits_of)
    with _contained() as warnings, torch.random.fork_rng():
        library = configured(finite, threat, seed, x.device, options)
        with torch.no_grad():
            logits = finite(x)
        for part in (library.apgd_targeted, library.fab):
            part.n_target_classes = min(part.n_target_classes, logits.shape[1] - 1)
        images, alive = x.clone(), logits.argmax(1) == y
        stages: dict[str, Tensor] = {}
        for stage in list(library.attacks_to_run):
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
        crafted = Crafted(images, stages, _flags(warnings))
    return finite.broken_by_nan(crafted, x, y, threat)


def configured(
    logits_of: Model,
    threat: Threat,
    seed: int,
    device: torch.device,
    options: Options,
) -> types.SimpleNamespace:
    """Return the library's attack object."""
    from pyautoattack import AutoAttack as Library

    custom = {"version": "custom", "attacks": list(options.attacks)}
    chosen = custom if options.attacks else {"version": options.version}
    library: types.SimpleNamespace = Library(
        logits_of, norm=threat.norm, eps=float(threat.eps), seed=seed, device=device, **chosen
    )
    for part in (library.apgd, library.apgd_targeted):
        if part.n_iter != options.iterations:  # the library's own number, whatever the default here
            _set_iterations(part, options.iterations)
    return library


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
