"""Subnormal numbers set to zero: a processor computes with them many times more slowly."""

from __future__ import annotations

import torch
from torch import nn

SMALLEST = 1e-30  # magnitudes below are zero; products of two float32 numbers as small vanish anyway


def without_subnormals(module: nn.Module) -> nn.Module:
    """Set parameters and buffers smaller than SMALLEST to zero, in place; return the module.

    Dead filters leave such numbers: their running statistics decay without end.
    """
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.masked_fill_(tensor.abs() < SMALLEST, 0)
    return module
