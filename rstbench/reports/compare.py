"""Compare each model with adversarially trained dense networks, on the same images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..evidence.manifest import Row
from ..evidence.trial import ModelInfo
from .lookup import Evidence
from .per_image import WORST, PerImage, per_image_answers
from .statistics import DIGITS, mean, paired

COLUMNS = [
    "model", "baseline", "role", "attack", "threat", "data", "seed", "images", "robust", "baseline_robust",
    "difference", "difference_low", "difference_high", "verdict",
]  # fmt: skip
DENSE, SAME_SIZE = "dense", "same-size"
ADVERSARIAL = "adversarial-training"  # the method of a network trained against an adversary
SIZE_MARGIN = 0.15  # of the model's kept weights: further away it is no network of the same size


def compare(evidence: Evidence) -> pd.DataFrame:
    """Return one line a model, baseline and attack (and `worst`) that both answered at one threat and seed.

    Baselines are of two roles: `dense` has the model's architecture and width with all its weights, and its
    norm layers where there is such a network; `same-size` has nearly as many weights as the model keeps.
    `worst` is compared only where both were asked the same attacks.
    """
    groups: dict[tuple[str, int], dict[str, tuple[Row, PerImage]]] = {}
    for row in evidence.manifest.rows:
        if answers := per_image_answers(evidence, row):
            groups.setdefault((row.threat, row.seed), {})[row.model] = (row, answers)
    lines: list[dict[str, Any]] = []
    for group in groups.values():
        infos = {model: evidence.info(model) for model in group}
        for model, ours in group.items():
            others = {digest: info for digest, info in infos.items() if digest != model}
            for role, baseline in _baselines(infos[model], others):
                lines += _lines(evidence, role, ours, group[baseline])
    return pd.DataFrame(lines, columns=COLUMNS)


def comparison(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Return the figures of one line. ours, theirs: probabilities of being right on each image, (images,).

    The verdict follows from the interval of the paired difference alone.
    """
    difference, low, high = (round(value, DIGITS) for value in paired(ours, theirs))
    return {
        "images": len(ours),
        "robust": mean(ours),
        "baseline_robust": mean(theirs),
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "verdict": "better" if low > 0 else "worse" if high < 0 else "not told apart",
    }


def _baselines(info: ModelInfo, others: dict[str, ModelInfo]) -> Iterator[tuple[str, str]]:
    """Yield (role, digest) of each baseline of a model; none for a switch, which is no single network."""
    dense = {digest: other for digest, other in others.items() if is_dense(other)}
    if info.members:
        return
    yield from ((DENSE, digest) for digest in of_architecture(info.network, dense))
    kept = info.kept_weights or 0
    gaps = {digest: abs((other.kept_weights or 0) - kept) for digest, other in dense.items()}
    nearest = min(gaps, key=lambda digest: (gaps[digest], others[digest].name), default=None)
    if nearest and kept and gaps[nearest] <= SIZE_MARGIN * kept:
        yield SAME_SIZE, nearest


def of_architecture(network: str, infos: Mapping[str, ModelInfo]) -> list[str]:
    """Return the digests with this network; where there are none, those that differ in norm layers alone."""
    same = [digest for digest, info in infos.items() if info.network == network]
    return same or [digest for digest, info in infos.items() if _body(info.network) == _body(network)]


def _body(network: str) -> str:
    """Return 'conv4[width=0.5' of 'conv4[width=0.5,norm=affine]'."""
    return re.sub(r",?(norm=\w+|last-norm)\b", "", network.rstrip("]")).replace("[,", "[").rstrip("[")


def is_dense(info: ModelInfo) -> bool:
    """Return whether a model is a network trained against an adversary with all its weights."""
    complete = bool(info.kept_weights) and info.kept_weights == info.total_weights
    return complete and info.kind == "trained" and info.method == ADVERSARIAL


def _lines(
    evidence: Evidence, role: str, model: tuple[Row, PerImage], baseline: tuple[Row, PerImage]
) -> Iterator[dict[str, Any]]:
    """Yield the lines of one model and one baseline."""
    (row, ours), (their_row, theirs) = model, baseline
    for attack, values in ours.known().items():
        same_question = attack != WORST or set(row.attacks) == set(their_row.attacks)
        if attack in theirs.known() and same_question:
            yield comparison(values, theirs.known()[attack]) | {
                "model": evidence.info(row.model).name,
                "baseline": evidence.info(their_row.model).name,
                "role": role,
                "attack": attack,
                **evidence.question(row),
            }
