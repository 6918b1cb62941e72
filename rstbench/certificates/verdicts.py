"""What the certificates share: images prepared in float64, margins turned into verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ModelFault
from ..threat import Threat
from .backward import Region
from .linear_bounds import Margins
from .network import Network, read_network
from .regions import proved_radius
from .rounding import error_bounds
from .spec import Certified

AT_ONCE = 16  # images whose values of all layers are kept
MOST_DIFFERENCE = 1e-2  # of the largest logit, between the module and the layers that were read from it


@dataclass(frozen=True)
class Question:
    """Images that a module gets right, of which something is to be proved.

    right: bool (n,), of all images. region, y: of the right ones alone.
    """

    network: Network
    right: Tensor
    region: Region
    y: Tensor

    def certified(self, margins: Sequence[Margins], counterexamples: Tensor | None = None) -> Certified:
        """Return the verdicts for bounds of the margins of each right image."""
        least = torch.full(self.right.shape, torch.nan, dtype=torch.float64, device=self.right.device)
        if margins:
            least[self.right] = torch.stack([found.least.amin() for found in margins])
        error = max((found.error for found in margins), default=0.0)
        return Certified(least > 0, least, error, self.region.eps, counterexamples)


@torch.no_grad()
def question(module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Question:
    """Read the module, and sort out the images that it gets wrong.

    Raises BadRequest where a layer is not known, and ModelFault where the layers that were read are another
    function than the module, as where hooks change values.
    """
    network = read_network(module, x.shape[1:])
    logits = module(x)
    right = (logits.argmax(1) == y) & logits.isfinite().all(1)
    for images, found, is_right in zip(
        x.split(AT_ONCE), logits.split(AT_ONCE), right.split(AT_ONCE), strict=True
    ):
        values = network.values(images)
        allowed = error_bounds(network, values).minimum(
            MOST_DIFFERENCE * values[-1].abs().amax(1, keepdim=True)
        )
        if not ((found.double() - values[-1]).abs() <= allowed)[is_right].all():
            raise ModelFault("the layers that were read from the network give other logits than the network")
    region = Region(x[right].double(), threat.norm, proved_radius(threat))
    return Question(network, right, region, y[right])
