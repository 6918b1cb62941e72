"""What all models that lie have in common."""

from __future__ import annotations

from torch import Tensor, nn


class Lie(nn.Module):
    """A model around an honest network.

    truth: how its true robust accuracy is known: 'same' as the network's, under an attack on the mean of its
    draws ('eot') or on the network's gradients ('bpda'), 'zero', or 'none' where there is none; alarm: what
    PGD alone is enough to raise, or 'refused'; '' where it raises none.
    """

    truth, alarm = "same", ""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
