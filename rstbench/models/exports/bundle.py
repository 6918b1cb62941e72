"""What leaves: an ordinary module, and all that is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ...errors import BadRequest
from ...files import refuse_foreign, write_whole
from ...tickets.checkpoint import Checkpoint
from ...tickets.ticket import Ticket
from ..fold import folded

AGREE = 1e-5  # largest difference of logits that another format may bring, relative to the largest logit


@dataclass(frozen=True)
class ExportBundle:
    """name: of the file it came from; module: images in [0, 1] to logits, in eval mode; made: where it is
    from; rows: its lines of a leaderboard; fold: what folding changed, None where nothing is folded;
    compressed: whether weights are written without their zeros, where a format can."""

    name: str
    module: nn.Module
    made: Ticket | Checkpoint
    rows: Sequence[Mapping[str, Any]] = ()
    fold: Mapping[str, Any] | None = None
    compressed: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.made.spec.shape

    @property
    def example(self) -> Tensor:
        """Two images to trace with."""
        return torch.rand((2, *self.shape), generator=torch.Generator().manual_seed(0))

    @property
    def state(self) -> dict[str, Tensor]:
        return {name: tensor.contiguous() for name, tensor in self.module.state_dict().items()}

    @property
    def title(self) -> str:
        """One line on what it is."""
        made = self.made
        share = f"{made.kept_weights} of {made.total_weights} weights"
        if isinstance(made, Ticket):
            return f"{self.name}: a ticket of {made.spec}, {share} of a random network"
        return f"{self.name}: {made.spec}, trained, {share}"

    @property
    def fold_note(self) -> str:
        """What is to be told of the folding, as a sentence; a full stop where there was none."""
        if not self.fold:
            return "."
        return (
            f". Batch norm is folded into the layers before it: logits differ from the measured network's by "
            f"at most {self.fold['largest_logit_difference']:.2g} on {self.fold['images']}."
        )

    def about(self) -> dict[str, Any]:
        """Recipe, network and counts, as every format carries them."""
        made = self.made
        facts = {
            "recipe": asdict(made.recipe),
            "network": made.spec.plain(),
            "remaining": made.remaining,
            "kept_weights": made.kept_weights,
            "total_weights": made.total_weights,
            "input": "pixels in [0, 1], shape (n, channels, height, width)",
            "output": "logits, shape (n, classes)",
        }
        if isinstance(made, Ticket):
            facts["random_digest"] = made.random_digest
        if self.fold:
            facts["fold"] = dict(self.fold)
        return facts

    def about_text(self, **more: Any) -> bytes:
        """The same as JSON."""
        return (json.dumps({**self.about(), **more}, indent=1) + "\n").encode()


def folded_bundle(parcel: ExportBundle, x: Tensor, images: str) -> ExportBundle:
    """The parcel with batch norm folded into the layers before it, where it directly follows one.

    x: images (n, c, h, w) on which the largest difference of logits is measured; images: what they are.
    Raises BadRequest for a network that cannot be traced.
    """
    try:
        net = folded(torch.fx.symbolic_trace(parcel.module)).requires_grad_(False).eval()
    except (torch.fx.proxy.TraceError, RuntimeError, TypeError, ValueError) as error:
        raise BadRequest(f"the network cannot be folded: {str(error).splitlines()[0]}") from None
    with torch.no_grad():
        difference = float((net(x) - parcel.module(x)).abs().max())
    return replace(parcel, module=net, fold={"largest_logit_difference": difference, "images": images})


def write_file(parcel: ExportBundle, path: Path, content: bytes, **told: str) -> list[Path]:
    """Writes `path`, and `<path>.json` with what is told of it. Raises BadRequest where `path` is there and
    no such JSON beside it says that it was an export."""
    beside = path.with_name(path.name + ".json")
    refuse_foreign(path, beside)
    write_whole(path, content)
    write_whole(beside, parcel.about_text(**told))
    return [path, beside]


def check(parcel: ExportBundle, what: str, again: Tensor) -> None:
    """Raises BadRequest where the logits of another format on the example differ beyond rounding."""
    with torch.no_grad():
        logits = parcel.module(parcel.example)
    difference = float((again - logits).abs().max())
    if not difference <= AGREE * max(1.0, float(logits.abs().max())):
        raise BadRequest(f"{what} computes other logits than the network: {difference:g} apart")
