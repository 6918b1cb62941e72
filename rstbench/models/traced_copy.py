"""The parts of a fast copy: a network traced, folded, cleaned, laid out, in a precision."""

from __future__ import annotations

import copy

import torch
import torch.fx
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..errors import one_line
from ..networks.subnormals import flush_network
from .agreement import NotCopied
from .baked import baked
from .fold import folded

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def traced(module: nn.Module) -> torch.fx.GraphModule:
    """Return a copy of a frozen module in eval mode as a graph, its norms folded, without subnormal numbers.

    Raises NotCopied where its code cannot be traced, as where it branches on values.
    """
    try:
        graph = folded(torch.fx.symbolic_trace(baked(copy.deepcopy(module))))
        flush_network(graph)
        return graph.requires_grad_(False).eval()
    except (Exception, SystemExit) as error:  # of a user's code, which is given placeholders
        raise NotCopied(f"it cannot be traced: {one_line(error, 100)}") from error


class FastCopy(nn.Module):
    """A traced network behind contiguous images, which gives contiguous gradients.

    inference: what runs where no gradient is wanted, the network itself by default.
    """

    def __init__(self, net: nn.Module, layout: str, inference: nn.Module | None = None) -> None:
        super().__init__()
        self.format = LAYOUTS[layout]
        self.net = net.to(memory_format=self.format).requires_grad_(False).eval()
        self.inference = inference

    def forward(self, x: Tensor) -> Tensor:
        if not _keeps_graph(x) and self.inference is not None and len(x) > 1:  # packed for batches
            logits: Tensor = self.inference(x)
            return logits
        if x.requires_grad:
            # Images go in flat, so that gradients come back contiguous: AutoAttack calls `.view` on them.
            x = x.flatten(1).unflatten(1, x.shape[1:])
        logits = self.net(x.contiguous(memory_format=self.format))
        return logits


class ForwardCopy(nn.Module):
    """A module with another form of it for passes without gradients."""

    def __init__(self, module: nn.Module, inference: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.inference = inference

    def forward(self, x: Tensor) -> Tensor:
        alone = _keeps_graph(x) or len(x) == 1
        logits: Tensor = self.module(x) if alone else self.inference(x)
        return logits


def _keeps_graph(x: Tensor) -> bool:
    """Whether more than the values of a forward pass is wanted."""
    if torch.compiler.is_compiling():
        return True
    return (torch.is_grad_enabled() and x.requires_grad) or forward_ad.unpack_dual(x).tangent is not None
