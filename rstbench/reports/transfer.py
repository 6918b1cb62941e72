"""Build the transfer matrix, long and square: images crafted against one model, judged by another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ..evidence.trial import CLEAN, keeps_clean_images
from ..flags import TRANSFER_BEATS_WHITE_BOX
from .lookup import EARLY_STOP, Evidence, base_attack, options_of
from .statistics import mean

COLUMNS = [
    "source", "target", "source_remaining", "target_remaining", "attack", "early_stop", "threat", "data",
    "images", "robust",
]  # fmt: skip


def transfer(evidence: Evidence) -> pd.DataFrame:
    """Return one line a source, target, attack and threat, of models judged by one another.

    Of models that were attacked at several seeds it is the mean over these.
    """
    infos, answers = evidence.manifest.models, dict[tuple[str, str, str, str], list[np.ndarray]]()
    for attack, threat, seed, source, target in dict.fromkeys(_pairs(evidence)):
        bits = evidence.bits(source, target, attack, threat, seed)
        if bits is not None:
            answers.setdefault((attack, threat, source, target), []).append(bits)
    lines = [
        {
            "source": infos[source].name,
            "target": infos[target].name,
            "source_remaining": infos[source].remaining,
            "target_remaining": infos[target].remaining,
            "attack": base_attack(attack),
            "early_stop": str(EARLY_STOP in options_of(attack)).lower(),
            "threat": threat,
            "data": evidence.manifest.run["data"],
            "images": evidence.manifest.images,
            "robust": mean(np.concatenate(bits)),
        }
        for (attack, threat, source, target), bits in answers.items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def _pairs(evidence: Evidence) -> Iterator[tuple[str, str, int, str, str]]:
    """Yield (attack, threat, seed, source, target) of each group; groups of several folders may overlap."""
    for group in evidence.manifest.groups:
        craftings = {key[2:] for key in evidence.records if key[0] in group and key[1] in group and key[3]}
        for attack, threat, seed in sorted(craftings):
            if attack != CLEAN and not keeps_clean_images(attack):
                yield from ((attack, threat, seed, source, target) for source in group for target in group)


def groups_of(part: pd.DataFrame) -> list[list[str]]:
    """Return the models that were judged by one another, in the table's order."""
    groups: list[list[str]] = []
    for source, judged in part.groupby("source", sort=False)["target"]:
        together = list(dict.fromkeys([str(source), *judged]))
        for group in [group for group in groups if set(group) & set(together)]:
            groups.remove(group)
            together = list(dict.fromkeys([*group, *together]))
        groups.append(together)
    return groups


def matrix(part: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return accuracies (sources, targets), nan where nobody asked; of several seeds the mean."""
    cells = part.groupby(["source", "target"])["robust"].mean().unstack()
    return np.asarray(cells.reindex(index=list(names), columns=list(names)), dtype=float)


def transfer_flags(frame: pd.DataFrame) -> Iterator[str]:
    """Yield one line a target that images crafted elsewhere fool more often than its own do.

    frame: transfer.csv. An attack that loses to transferred images has not found what it could.
    """
    for (threat, attack, stop), part in frame.groupby(["threat", "attack", "early_stop"], sort=False):
        own = part[part["source"] == part["target"]].set_index("target")["robust"]
        for _, row in part[part["source"] != part["target"]].iterrows():
            white = own.get(row["target"])
            if white is not None and row["robust"] < white - 1e-6:
                stopped = ", stopped at the first success" if stop == "true" else ""
                yield (
                    f"{TRANSFER_BEATS_WHITE_BOX.name}: {attack} at {threat}{stopped}: images against "
                    f"{row['source']} leave {row['target']} {100 * row['robust']:.1f}%, its own "
                    f"{100 * white:.1f}%"
                )
