"""The transfer matrix in long form: images crafted against one model, judged by another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..harness.trial import CLEAN
from .evidence import EARLY_STOP, Evidence, base_attack
from .statistics import mean

TRANSFER = [
    "source", "target", "source_remaining", "target_remaining", "attack", "early_stop", "threat", "data",
    "images", "robust",
]  # fmt: skip


def transfer(evidence: Evidence) -> pd.DataFrame:
    """Long form: one line a source, target, attack and threat, of models judged by one another.

    Of models that were given and attacked at several seeds the mean over these.
    """
    cards, answers = evidence.request.cards, dict[tuple[str, str, str, str], list[np.ndarray]]()
    for attack, threat, seed, source, target in dict.fromkeys(_asked(evidence)):
        bits = evidence.bits(source, target, attack, threat, seed)
        if bits is not None:
            answers.setdefault((attack, threat, source, target), []).append(bits)
    lines = [
        {
            "source": cards[source].name,
            "target": cards[target].name,
            "source_remaining": cards[source].remaining,
            "target_remaining": cards[target].remaining,
            "attack": base_attack(attack),
            "early_stop": str(EARLY_STOP in attack).lower(),
            "threat": threat,
            "data": evidence.request.run["data"],
            "images": evidence.request.images,
            "robust": mean(np.concatenate(found)),
        }
        for (attack, threat, source, target), found in answers.items()
    ]
    return pd.DataFrame(lines, columns=TRANSFER)


def _asked(evidence: Evidence) -> Iterator[tuple[str, str, int, str, str]]:
    """(attack, threat, seed, source, target) of each group; the groups of several folders may overlap."""
    for group in evidence.request.groups:
        ways = {key[2:] for key in evidence.records if key[0] in group and key[1] in group and key[3]}
        for attack, threat, seed in sorted(ways):
            if not attack.startswith(("autoattack", CLEAN)):
                yield from ((attack, threat, seed, source, target) for source in group for target in group)
