"""R2S, the random switch: each image is answered by one of several tickets, drawn at random.

Source: Fu et al., NeurIPS 2021. Drawn afresh for each image or batch from the switch's own generator. Whoever
measures it should not sample: `members` and `weights` allow exact expectations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ..errors import BadRequest


class Switch(nn.Module):
    """members: networks with the same classes; weights: their probabilities, uniform by default; per: whether
    each 'image' or each 'batch' has a draw of its own.

    Raises BadRequest for fewer than two members or weights that are no probabilities.
    """

    weights: tuple[float, ...]

    def __init__(
        self,
        members: Sequence[nn.Module],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        per: str = "image",
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise BadRequest(f"a switch needs at least two members, got {len(members)}")
        chosen = [1 / len(members)] * len(members) if weights is None else [float(w) for w in weights]
        if len(chosen) != len(members) or not min(chosen) >= 0 or not abs(sum(chosen) - 1) <= 1e-6:
            raise BadRequest(
                f"a switch of {len(members)} wants as many probabilities that add to 1, got {chosen}"
            )
        if per not in ("image", "batch"):
            raise BadRequest(f"a switch draws per image or per batch, got {per!r}")
        self.per = per
        self.members = nn.ModuleList(members)
        self.weights = tuple(chosen)
        self.generator = Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes); image i is answered by the member of its draw."""
        if len(x) == 0:
            empty: Tensor = self.members[0](x)
            return empty
        draws = len(x) if self.per == "image" else 1
        drawn = torch.multinomial(
            torch.tensor(self.weights), draws, replacement=True, generator=self.generator
        ).expand(len(x))
        answers = {
            int(index): self.members[index](x[(drawn == index).to(x.device)]) for index in set(drawn.tolist())
        }
        first = next(iter(answers.values()))
        logits: Tensor = first.new_zeros(len(x), first.shape[1])
        for index, answer in answers.items():
            logits[(drawn == index).to(x.device)] = answer
        return logits
