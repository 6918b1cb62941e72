"""What the certificates share: images prepared in float64, margins turned into verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ModelFault
from ..threat import Threat
from .backward import Region
from .linear_bounds import LinearBounds
from .network import Network, read_network
from .regions import proved_radius
from .rounding import error_bounds, margin_errors
from .spec import Certified


@dataclass(frozen=True)
class Question:
    """Images that a module gets right, and what is to be proved of them.

    right: bool (n,), of all images. region, y: of the right ones alone.
    """

    network: Network
    right: Tensor
    region: Region
    y: Tensor

    def certified(self, margins: Tensor, known: LinearBounds) -> tuple[Certified, Tensor]:
        """Return the verdicts for margins (right images, classes − 1), and the error of each right image.

        Raises ModelFault where the module's clean logits are not those of the network that was read.
        """
        errors = margin_errors(error_bounds(self.network, known.bounds), self.y)
        least = margins.amin(1) if margins.shape[1] else torch.full_like(errors, torch.inf)
        proved = torch.zeros_like(self.right)
        proved[self.right] = least > errors
        all_margins = torch.full(self.right.shape, torch.nan, dtype=torch.float64, device=self.right.device)
        all_margins[self.right] = least
        worst = float(errors.amax()) if len(errors) else 0.0
        return Certified(proved, all_margins, worst, self.region.eps), errors


@torch.no_grad()
def question(module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Question:
    """Read the module, and sort out the images that it gets wrong.

    Raises BadRequest where a layer is not known, and ModelFault where the network that was read is another
    function than the module, as where hooks change values.
    """
    network = read_network(module, x.shape[1:])
    logits = module(x)
    right = (logits.argmax(1) == y) & logits.isfinite().all(1)
    exact = network.values(x)
    bounds = {place: (value, value) for place, value in enumerate(exact)}
    if not ((logits.double() - exact[-1]).abs() <= error_bounds(network, bounds))[right].all():
        raise ModelFault("the layers that were read from the network give other logits than the network")
    region = Region(x[right].double(), threat.norm, proved_radius(threat))
    return Question(network, right, region, y[right])
