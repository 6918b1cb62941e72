"""Define what is asked of one model at one threat: its clean images, an attack, or a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from ..attacks import AttackSpec
from ..certificates import CertificateSpec
from ..data import Images
from ..evidence.trial import ATTACK, CERTIFICATE, CLEAN, EXACT, Trial
from ..models.wrapper import EvalModel
from ..threat import Threat


@dataclass(frozen=True)
class Task:
    """Images crafted against `source` by `attack` within `threat`, judged by each of `targets`.

    attack: None for the clean images, which depend on no threat and no seed, and are always exact, and for a
    certificate of `source`, its only target, which depends on no seed and is always exact too.
    """

    source: EvalModel
    targets: tuple[EvalModel, ...]
    attack: AttackSpec | None = None
    threat: Threat | None = None
    seed: int = 0
    crafting: str = EXACT
    certificate: CertificateSpec | None = None

    @property
    def is_clean(self) -> bool:
        """Return whether it asks about clean images."""
        return self.attack is None and self.certificate is None

    @property
    def name(self) -> str:
        what = self.attack or self.certificate
        return f"{self.source.info.name} {what} {self.threat}" if what else f"{self.source.info.name} {CLEAN}"

    @property
    def passes(self) -> int:
        """Return about how many passes an image takes."""
        what = self.attack or self.certificate
        return what.passes if what else 1

    def trials(self, data: Images, batch: int) -> tuple[Trial, ...]:
        """Return one trial a target."""
        return tuple(
            Trial(
                source=target.digest if self.is_clean else self.source.digest,
                target=target.digest,
                attack=str(self.attack or self.certificate or CLEAN),
                threat="" if self.is_clean else str(self.threat),
                data=data.digest,
                batch=batch,
                seed=self.seed if self.attack else 0,
                crafting=self.crafting if self.attack else EXACT,
                kind=CERTIFICATE if self.certificate else ATTACK,
            )
            for target in self.targets
        )


def clean_task(model: EvalModel) -> Task:
    """Return the task of judging a model on the images as they are."""
    return Task(model, (model,))


def certificate_task(model: EvalModel, certificate: CertificateSpec, threat: Threat) -> Task:
    """Return the task of proving that a model keeps its class."""
    return Task(model, (model,), threat=threat, certificate=certificate)
