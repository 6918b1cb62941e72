"""How public code names the layers of networks that this tool has too.

A naming scheme stands here only where that code computes the same function; the tests restate its module.
Add one for another code base here, in `SCHEMES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class NamingScheme:
    """The state-dict names of a code base.

    rename: our name of a tensor -> theirs; unused: prefixes of tensors that their forward never uses;
    question: what else their code decides and the user has to say, '' where there is nothing.
    """

    rename: Callable[[str], str]
    unused: tuple[str, ...] = ()
    question: str = ""


OWN = NamingScheme(lambda name: name)


def _resnet(name: str) -> str:
    """Rename as kuangliu/pytorch-cifar (models/resnet.py) does, and after it TRADES, HYDRA, RobustBench, and
    MadryLab/robustness (cifar_models/resnet.py)."""
    return re.sub(r"^fc\.", "linear.", name)


def _preact(name: str) -> str:
    """Rename as public pre-activation networks do.

    With a norm before the last layer it is locuslab/robust_overfitting (RobustBench: Rice2020Overfitting),
    without it locuslab/fast_adversarial (RobustBench: Wong2020Fast) or kuangliu/pytorch-cifar.
    """
    name = re.sub(r"^layers\.(\d)\.", lambda match: f"layer{int(match[1]) + 1}.", name)
    return re.sub(r"^fc\.", "linear.", name.replace(".shortcut.", ".shortcut.0."))


def _wide(name: str) -> str:
    """Rename as yaodongyu/TRADES (models/wideresnet.py) does, after xternalz/WideResNet-pytorch; so do HYDRA
    and RobustBench."""
    name = re.sub(r"^bn\.", "bn1.", name.replace(".shortcut.", ".convShortcut."))
    return re.sub(r"^layers\.(\d)\.", lambda match: f"block{int(match[1]) + 1}.layer.", name)


_PREACT = NamingScheme(
    _preact,
    question="public code of these names differs in where the shortcut of a block begins, which no file "
    "tells: add [shortcut=activated] where its forward says self.shortcut(out), as in "
    "kuangliu/pytorch-cifar and robust_overfitting, [shortcut=input] where it says self.shortcut(x), as in "
    "fast_adversarial and RobustBench's PreActBlock",
)
# That of TRADES builds a second first block and never calls it (yaodongyu/TRADES#16).
_WIDE = NamingScheme(_wide, ("sub_block1.",))
SCHEMES: dict[str, tuple[NamingScheme, ...]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), (NamingScheme(_resnet),)),
    **dict.fromkeys(("preactresnet18", "preactresnet18-raw"), (_PREACT,)),
    **dict.fromkeys(("wrn-28-10", "wrn-34-10"), (_WIDE,)),
}


def naming_schemes(network: str) -> tuple[NamingScheme, ...]:
    """Return our own names first, then those of public code for this network."""
    return (OWN, *SCHEMES.get(network, ()))
