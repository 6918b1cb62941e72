"""Define the contract of a certificate, and parse its text: `crown:alpha=20`. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..attacks.spec import UNKNOWN_PASSES, changed_options, make_named
from ..errors import BadRequest
from ..threat import Threat

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Certified:
    """What a certificate returns for n images.

    Args:
        proved: Bool (n,): no image of the ball within [0, 1] changes the class. False says nothing but that
            no proof was found, or that the model is wrong on the clean image.
        margins: Float64 (n,): a lower bound of the float32 module's least class margin over the ball, nan
            where none was computed.
        error_bound: What rounding in float32 takes from these bounds, the largest over the images.
        eps_proved: Radius of the ball that was proved: the threat's with the judge's tolerance.
        counterexamples: Float32 (n, c, h, w), images of the ball and the box that the module gets wrong, nan
            where none was found; None where the certificate looks for none.
    """

    proved: Tensor
    margins: Tensor
    error_bound: float
    eps_proved: float
    counterexamples: Tensor | None = None


class Certificate(Protocol):
    """The contract of a certificate: a callable that proves images robust, or does not.

    Nothing is random. An image counts as proved only where the float32 module itself, with its rounding
    errors, gives the label its largest logit on every image that the judge would accept.

    Args:
        module: Maps images (n, c, h, w) in [0, 1] to logits (n, classes), in eval mode, in float32.
        x: Clean images (n, c, h, w) in [0, 1].
        y: Labels (n,), int64.
        threat: The ball that is to be proved.

    Returns:
        The verdicts and the margins.

    Raises:
        BadRequest: For networks with other layers than are known, and norms that it cannot treat.
    """

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Certified:
        """Return the verdict on each image of x."""


@dataclass(frozen=True)
class CertificateSpec:
    """A certificate as a user names it, and the certificate itself, made once.

    `str` of it is the canonical text `family:option=value,...`, as of an attack.

    Args:
        family: The name it is registered under, the same for all options.
        options: Those that differ from the defaults, sorted by name. A plug-in that is no dataclass cannot
            tell its defaults: its options stand as they were given.
        certificate: The certificate.
    """

    family: str
    options: tuple[tuple[str, str], ...]
    certificate: Certificate = field(compare=False, repr=False)

    @property
    def passes(self) -> int:
        """Return about as many passes as an image costs; a certificate may tell it by a number `passes`."""
        passes = getattr(self.certificate, "passes", None)
        return passes if isinstance(passes, int) and passes > 0 else UNKNOWN_PASSES

    def refusal(self, threat: Threat) -> str:
        """Return why it cannot treat a threat, '' where it can.

        A certificate says so by a method `check` that raises BadRequest.
        """
        try:
            if check := getattr(self.certificate, "check", None):
                check(threat)
        except BadRequest as refused:
            return str(refused)
        return ""

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.family}:{options}" if options else self.family

    @classmethod
    def parse(cls, text: str) -> CertificateSpec:
        """Read a certificate from its text and make it.

        Args:
            text: Such as 'crown' or 'crown:alpha=20'.

        Returns:
            The certificate with its canonical name.

        Raises:
            BadRequest: For unknown names or options, and values that the certificate refuses.
        """
        name, certificate, given = make_named("certificates", text)
        return cls(name, changed_options(certificate, given), certificate)
