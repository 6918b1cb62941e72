"""Ask a certificate, check the form of its answer, and judge the images that it finds instead of a proof."""

from __future__ import annotations

import torch
from torch import Tensor

from ..certificates import Certificate, Certified
from ..data import Images
from ..errors import BadRequest, ModelFault, typed_line
from ..models.frozen import weights_unchanged
from ..models.wrapper import EvalModel
from ..threat import Threat
from .judge import predict


def prove(
    source: EvalModel, certificate: Certificate, x: Tensor, y: Tensor, threat: Threat, name: str
) -> Certified:
    """Run a certificate; name: of the question, for what goes wrong. Raises ModelFault."""
    try:
        with weights_unchanged(source.module):
            proved = certificate(source.module, x.clone(), y.clone(), threat)
    except ModelFault:
        raise
    except BadRequest as refused:
        raise ModelFault(f"{name}: {refused}") from refused
    except (Exception, SystemExit) as error:
        raise ModelFault(f"{name} raised {typed_line(error)}") from error
    if not isinstance(proved, Certified) or proved.proved.shape != y.shape:
        raise ModelFault(f"{name}: wanted Certified(proved, …) of {len(y)} images")
    return proved


def broken_by(
    source: EvalModel, proved: Certified, x: Tensor, y: Tensor, threat: Threat, images: Images
) -> Tensor:
    """Return which images the exact module gets wrong on the certificate's counterexamples, bool (n,).

    Raises OutsideBall where one of them is no image of the ball.
    """
    broken = torch.zeros(len(x), dtype=torch.bool)
    if proved.counterexamples is not None:
        found = proved.counterexamples.flatten(1).isfinite().all(1)
        adv = proved.counterexamples[found].to(x)
        if len(adv):
            threat.check(x[found], adv)
            logits = predict(source, adv, images.classes, exact=images.classes_known)
            broken[found.cpu()] = (logits.argmax(1) != y[found]).cpu()
    return broken


def counterexamples(proved: Certified, broken: Tensor, x: Tensor, most: int | None) -> Tensor | None:
    """Return images of which those that are `broken` are counterexamples and the others clean, on the CPU.

    most: so many first ones, None for all. None where nothing is broken.
    """
    if proved.counterexamples is None or not bool(broken.any()):
        return None
    chosen = broken.to(x.device)[:, None, None, None]
    return torch.where(chosen, proved.counterexamples.to(x), x)[:most].cpu().clone()
