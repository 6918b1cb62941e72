"""The forward pass without gradients of a traced network, its constants packed for the kernels."""

from __future__ import annotations

import copy
import warnings

import torch
import torch.fx
from torch import Tensor, nn
from torch.jit._trace import TracerWarning


def frozen_forward(traced: torch.fx.GraphModule, x: Tensor) -> nn.Module | None:
    """Return a form of a network that passes images forward only, for batches of any size.

    None where this torch cannot make one, or its code looks at sizes. It owns its weights.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # TorchScript is deprecated, but nothing else packs weights without a compiler.
            warnings.simplefilter("ignore")
            # What would hold for this size only is no form for all.
            warnings.simplefilter("error", TracerWarning)
            scripted = torch.jit.trace(copy.deepcopy(traced).eval(), x[:2], check_trace=False)
            packed: nn.Module = torch.jit.optimize_for_inference(torch.jit.freeze(scripted))
            for _ in range(3):  # the interpreter settles in its first runs
                packed(x[:2])
    except Exception:
        return None
    return packed
