"""Search a network that must also keep what its image looks like: an ablation of this tool.

The idea is that of Li et al., "Reconstruction Task Finds Universal Winning Tickets" (2022), who prune a
trained network for classification and reconstruction; here a search in a random one has the same two tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from ...errors import BadRequest
from ...networks.network import prunable
from ...training.adversaries import Adversary, Batch, parse_adversary
from ...training.epochs import Epoch
from ..seeds import DECODER
from ..ticket import Ticket
from .edge_popup import train_scores
from .search import Search


@dataclass(frozen=True)
class Reconstruct:
    """`reconstruct`: edge-popup on its loss plus `weight` times the mean squared error between the clean
    image and a linear decoding of what enters the last layer, on the images that the loss is taken on.

    learnt: whether the decoder is trained, with the scores and at their rate, or stays as it was drawn.
    """

    weight: float = 1.0
    learnt: bool = True

    def check(self, search: Search) -> None:
        """Raise BadRequest for a weight that is not positive."""
        if not 0 < self.weight < math.inf:
            raise BadRequest(f"weight of the reconstruction must be positive, got {self.weight:g}")

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        net = search.network()
        last = net.get_submodule(list(prunable(net))[-1].removesuffix("weight").removesuffix("."))
        features = FeatureHook()
        last.register_forward_pre_hook(features.record)
        with torch.no_grad():
            net.eval()(search.split.select.at(slice(0, 2))[0].to(search.device))
        decoder = _random_decoder(features.inputs.shape[1], math.prod(search.spec.shape), search.recipe.seed)
        # A child of the last layer, so that the resume file of the fit holds it; the layer never calls it.
        last.add_module("decoder", decoder.to(search.device))
        inner = parse_adversary(search.recipe.adversary)
        adversary = ReconstructionAdversary(inner, features, decoder, self.weight)
        extra = list(decoder.parameters()) if self.learnt else []
        return train_scores(search, search.random_scores(), net=net, adversary=adversary, extra=extra)


class FeatureHook:
    """Record the latest inputs of a layer, flat: (n, features)."""

    inputs: Tensor

    def record(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = inputs[0].flatten(1)


@dataclass(frozen=True)
class ReconstructionAdversary:
    """Add the reconstruction loss of the clean image to each loss of an adversary."""

    inner: Adversary
    features: FeatureHook
    decoder: nn.Module
    weight: float

    @property
    def passes(self) -> int:
        """As many as the adversary takes."""
        return self.inner.passes

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        for loss in self.inner.losses(batch):
            decoded = self.decoder(self.features.inputs)
            yield loss + self.weight * mse_loss(decoded, batch.x.flatten(1))


def _random_decoder(features: int, pixels: int, seed: int) -> nn.Linear:
    decoder, generator = nn.Linear(features, pixels), Generator().manual_seed(seed + DECODER)
    with torch.no_grad():
        decoder.weight.copy_(torch.randn(decoder.weight.shape, generator=generator) / math.sqrt(features))
        decoder.bias.fill_(0.5)
    return decoder
