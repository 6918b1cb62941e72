"""Go on with fewer images at a time where a device has no memory for all of a shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ModelFault, typed_line

Result = TypeVar("Result")
# What libraries say who raise no class of their own for it: of the CPU, the driver, cuBLAS and cuDNN.
_TEXTS = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception tells that memory did not suffice, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


ALL = 2**62  # images at a time


def halving(call: Callable[[int], Result], images: int) -> tuple[Result, int]:
    """Return what `call` returns for the first number of `images`, half of them, a quarter, … (each rounded
    up) for which there is memory, and that number. Raises ModelFault where there is none for one image."""
    rows = images
    while True:
        try:
            return call(rows), rows
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if rows <= 1:
                raise ModelFault(f"there is no memory for even one image: {typed_line(error)}") from error
        # Here, for the exception would keep alive the tensors of all frames that it passed.
        rows = -(-rows // 2)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def passed(module: nn.Module, x: Tensor, rows: int) -> Tensor:
    """Return a module's output on x (n, …), passed at most `rows` images at a time.

    For a gradient each piece passes forward once more, so that all need the memory of one. Outputs and
    gradients differ by rounding from those of a single pass. A module may write into its input.
    """

    def passes(piece: Tensor) -> Any:
        return module(piece.clone())

    if len(x) <= rows:
        whole: Tensor = passes(x)
        return whole
    if torch.is_grad_enabled() and x.requires_grad:
        return torch.cat([checkpoint(passes, piece, use_reentrant=False) for piece in x.split(rows)])
    return torch.cat([passes(piece) for piece in x.split(rows)])
