"""What is exported: an ordinary module and its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ...errors import BadRequest, first_line
from ...files import refuse_foreign, write_whole
from ...tickets.checkpoint import Checkpoint
from ...tickets.ticket import Ticket
from ..fold import folded

AGREE = 1e-5  # largest difference of logits that another format may bring, relative to the largest logit


@dataclass(frozen=True)
class ExportBundle:
    """A model for export.

    name: of the file it came from; module: images in [0, 1] to logits, in eval mode; artifact: the ticket or
    checkpoint behind it; rows: its lines of a leaderboard; fold: what folding changed, None where nothing is
    folded; compressed: whether weights are written without their zeros, where a format can.
    """

    name: str
    module: nn.Module
    artifact: Ticket | Checkpoint
    rows: Sequence[Mapping[str, Any]] = ()
    fold: Mapping[str, Any] | None = None
    compressed: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.artifact.spec.shape

    @property
    def example(self) -> Tensor:
        """Two images (2, c, h, w) to trace with."""
        return torch.rand((2, *self.shape), generator=torch.Generator().manual_seed(0))

    @property
    def state(self) -> dict[str, Tensor]:
        return {name: tensor.contiguous() for name, tensor in self.module.state_dict().items()}

    @property
    def title(self) -> str:
        """One line on the model."""
        artifact = self.artifact
        share = f"{artifact.kept_weights} of {artifact.total_weights} weights"
        if isinstance(artifact, Ticket):
            return f"{self.name}: a ticket of {artifact.spec}, {share} of a random network"
        return f"{self.name}: {artifact.spec}, trained, {share}"

    @property
    def fold_note(self) -> str:
        """The sentence about folding that ends the title, a full stop where nothing is folded."""
        if not self.fold:
            return "."
        return (
            f". Batch norm is folded into the layers before it: logits differ from the measured network's by "
            f"at most {self.fold['largest_logit_difference']:.2g} on {self.fold['images']}."
        )

    def metadata(self) -> dict[str, Any]:
        """Return recipe, network and counts, as every format carries them."""
        artifact = self.artifact
        metadata = {
            "recipe": asdict(artifact.recipe),
            "network": artifact.spec.to_dict(),
            "remaining": artifact.remaining,
            "kept_weights": artifact.kept_weights,
            "total_weights": artifact.total_weights,
            "input": "pixels in [0, 1], shape (n, channels, height, width)",
            "output": "logits, shape (n, classes)",
        }
        if isinstance(artifact, Ticket):
            metadata["random_digest"] = artifact.random_digest
        if self.fold:
            metadata["fold"] = dict(self.fold)
        return metadata

    def metadata_json(self, **more: Any) -> bytes:
        """Return the metadata as JSON."""
        return (json.dumps({**self.metadata(), **more}, indent=1) + "\n").encode()


def folded_bundle(bundle: ExportBundle, x: Tensor, images: str) -> ExportBundle:
    """Fold batch norm into the layers that it directly follows.

    x: images (n, c, h, w) on which the largest difference of logits is measured; images: what they are.
    Raises BadRequest for a network that cannot be traced.
    """
    try:
        net = folded(torch.fx.symbolic_trace(bundle.module)).requires_grad_(False).eval()
    except (torch.fx.proxy.TraceError, RuntimeError, TypeError, ValueError) as error:
        raise BadRequest(f"the network cannot be folded: {first_line(error)}") from None
    with torch.no_grad():
        difference = float((net(x) - bundle.module(x)).abs().max())
    return replace(bundle, module=net, fold={"largest_logit_difference": difference, "images": images})


def write_file(bundle: ExportBundle, path: Path, content: bytes, **more: str) -> list[Path]:
    """Write `path` and its metadata, `<path>.json`; more: further metadata.

    Raises BadRequest where `path` exists and no such JSON shows that it was an export.
    """
    metadata = path.with_name(path.name + ".json")
    refuse_foreign(path, metadata)
    write_whole(path, content)
    write_whole(metadata, bundle.metadata_json(**more))
    return [path, metadata]


def check_logits(bundle: ExportBundle, what: str, exported: Tensor) -> None:
    """Raise BadRequest where the logits of another format on the example differ beyond rounding."""
    with torch.no_grad():
        logits = bundle.module(bundle.example)
    difference = float((exported - logits).abs().max())
    if not difference <= AGREE * max(1.0, float(logits.abs().max())):
        raise BadRequest(f"{what} computes other logits than the network: {difference:g} apart")
