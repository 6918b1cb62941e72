"""Models that come with packages this tool needs: `bundled:NAME`. Add one to `MODELS`."""

from __future__ import annotations

from ...attacks.autoattack.library import example_resnet
from ...errors import unknown
from ...evidence.trial import ModelInfo
from ..wrapper import EvalModel, wrap

MODELS = {"autoattack-resnet18": example_resnet}


def bundled(id: str) -> EvalModel:
    """Load `bundled:autoattack-resnet18`: the naturally trained CIFAR-10 ResNet-18 of AutoAttack's example.

    It takes pixels in [0, 1] and is not robust.
    """
    if id not in MODELS:
        raise unknown("bundled model", id, MODELS)
    return wrap(MODELS[id](), ModelInfo(f"bundled:{id}", "external", network="resnet18"), made_by=id)
