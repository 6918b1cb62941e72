"""The transfer matrix in long form: images crafted against one model, judged by another."""

from __future__ import annotations

import pandas as pd

from ..harness.trial import CLEAN
from .evidence import EARLY_STOP, Evidence, base_attack
from .statistics import mean

TRANSFER = [
    "source", "target", "source_remaining", "target_remaining", "attack", "early_stop", "threat", "data",
    "images", "robust",
]  # fmt: skip


def transfer(evidence: Evidence) -> pd.DataFrame:
    """Long form: one line a source, target, attack and threat, of models judged by one another."""
    lines = [
        {
            "source": evidence.card(source).name,
            "target": evidence.card(target).name,
            "source_remaining": evidence.card(source).remaining,
            "target_remaining": evidence.card(target).remaining,
            "attack": base_attack(attack),
            "early_stop": str(EARLY_STOP in attack).lower(),
            "threat": threat,
            "data": evidence.request.run["data"],
            "images": evidence.request.images,
            "robust": mean(bits),
        }
        for group in evidence.request.groups
        for attack, threat, seed in _asked(evidence, group)
        if not attack.startswith(("autoattack", CLEAN))
        for source in group
        for target in group
        if (bits := evidence.bits(source, target, attack, threat, seed)) is not None
    ]
    return pd.DataFrame(lines, columns=TRANSFER)


def _asked(evidence: Evidence, group: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """(attack, threat, seed) by which the models of a group were attacked, sorted."""
    return sorted({key[2:] for key in evidence.records if key[0] in group and key[1] in group and key[3]})
