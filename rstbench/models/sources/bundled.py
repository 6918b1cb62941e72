"""Models that come with packages this tool needs anyway: `bundled:NAME`."""

from __future__ import annotations

from torch import nn

from ...attacks.autoattack import example_resnet
from ...errors import unknown
from ...evidence.trial import ModelInfo
from ..wrapper import EvalModel, wrap

NAMES = {"autoattack-resnet18": example_resnet}


def bundled(id: str) -> EvalModel:
    """`bundled:autoattack-resnet18`: the naturally trained CIFAR-10 ResNet-18 that AutoAttack ships as its
    example, pixels in [0, 1]; the undefended end of a CIFAR-10 table."""
    if id not in NAMES:
        raise unknown("bundled model", id, NAMES)
    module: nn.Module = NAMES[id]()
    return wrap(module, ModelInfo(f"bundled:{id}", "external", network="resnet18"), made_by=id)
