"""How public code names the layers of networks that this tool has too.

A layout stands here only where that code computes the same function; its module is re-stated in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """theirs: our name of a tensor -> theirs; unused: how the names of what their forward never calls
    begin."""

    theirs: Callable[[str], str]
    unused: tuple[str, ...] = ()


OWN = Layout(lambda name: name)


def _resnet(name: str) -> str:
    """kuangliu/pytorch-cifar models/resnet.py; after it TRADES, HYDRA, RobustBench, and MadryLab/robustness
    (cifar_models/resnet.py)."""
    return re.sub(r"^fc\.", "linear.", name)


def _preact(name: str) -> str:
    """locuslab/robust_overfitting preactresnet.py (RobustBench: Rice2020Overfitting). The raw one, without a
    norm before its last layer: that of fast_adversarial (RobustBench: Wong2020Fast)."""
    name = re.sub(r"^layers\.(\d)\.", lambda match: f"layer{int(match[1]) + 1}.", name)
    return re.sub(r"^fc\.", "linear.", name.replace(".shortcut.", ".shortcut.0."))


def _wide(name: str) -> str:
    """yaodongyu/TRADES models/wideresnet.py, after xternalz/WideResNet-pytorch; HYDRA and RobustBench too."""
    name = re.sub(r"^bn\.", "bn1.", name.replace(".shortcut.", ".convShortcut."))
    return re.sub(r"^layers\.(\d)\.", lambda match: f"block{int(match[1]) + 1}.layer.", name)


# That of TRADES builds a second first block and never calls it (yaodongyu/TRADES#16).
_WIDE = Layout(_wide, ("sub_block1.",))
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), (Layout(_resnet),)),
    **dict.fromkeys(("preactresnet18", "preactresnet18-raw"), (Layout(_preact),)),
    **dict.fromkeys(("wrn-28-10", "wrn-34-10"), (_WIDE,)),
}


# Networks that public code calls by one name.
TWINS = {"preactresnet18": "preactresnet18-raw", "preactresnet18-raw": "preactresnet18"}


def layouts(network: str) -> tuple[Layout, ...]:
    """Our own names first, then those of public code for this network."""
    return (OWN, *LAYOUTS.get(network, ()))
