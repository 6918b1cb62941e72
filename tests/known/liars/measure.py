"""Evaluate the models that lie and the honest ones, and tell how well the alarms tell them apart.

`python tests/known/liars/measure.py --out leaderboards/reliability`

writes `models.csv`, a line a model as it is done (those that are there already are kept), and `alarms.csv`.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from gallery import LIARS, Lie
from honest import HONEST, small
from torch import nn
from truth import DRAWS, adaptive_accuracy

import rstbench
from rstbench.flags import BUILTIN_FLAGS, NON_FINITE_LOGITS

ATTACKS = ("pgd", "autoattack")
WITHIN = 0.03  # of its true robust accuracy, for a figure that does not mislead
ALARMS = {flag.name for flag in BUILTIN_FLAGS if flag.doubts_autoattack} | {NON_FINITE_LOGITS.name}
COLUMNS = ["model", "kind", "lie", "images", "threat", "truth", "true", "clean", *ATTACKS, "worst", "flags"]
COLUMNS += ["fault", "outcome"]
REFUSED = "refused"


def figures(
    module: nn.Module, data: str, threat: str, attacks: Sequence[str] = ATTACKS, crafting: str = "fast"
) -> dict[str, Any]:
    """What the leaderboard says of one model."""
    asked = {"data": data, "threat": threat, "attacks": attacks, "crafting": crafting}
    try:
        with warnings.catch_warnings(action="ignore"):  # faults are told in the table too
            table = rstbench.evaluate({"model": module}, **asked)
    except rstbench.ModelFault as fault:
        return {"worst": math.nan, "flags": "", "fault": str(fault)}
    row = table.iloc[0].to_dict()
    told = {name: pd.to_numeric(row[name]) for name in ("clean", *ATTACKS, "worst") if name in row}
    return told | {"flags": row["flags"] or "", "fault": "; ".join(table.attrs["faults"])}


def true_accuracy(liar: Lie, data: str, threat: str, of_network: float) -> float:
    """The true robust accuracy of a liar, NaN where it has none."""
    if liar.truth in ("eot", "bpda"):
        x, y = rstbench.load_data(data).at(slice(None))
        bpda = liar.truth == "bpda"
        options = {"slope_of": liar.net if bpda else None, "draws": 1 if bpda else DRAWS}
        return adaptive_accuracy(liar, x, y, rstbench.Threat.parse(threat), **options)
    return {"same": of_network, "zero": 0.0, "none": math.nan}[liar.truth]


def outcome(row: dict[str, Any]) -> str:
    """What became of a model: a liar was refused, flagged, brought near the truth, or missed."""
    alarms = ALARMS & set(row["flags"].split())
    if row["kind"] == "honest":
        return "false alarm" if alarms or row["fault"] else "silent"
    if math.isnan(row["worst"]):
        return REFUSED
    if alarms:
        return "flagged"
    return "missed" if misleads(row) else "near the truth"


def misleads(row: Any) -> bool:
    """Whether the worst case of a line is off the truth, or one of them is missing."""
    return not abs(row["worst"] - row["true"]) <= WITHIN


def rows(data: str, threat: str, known: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Evaluate all models that have no line yet."""
    models: list[tuple[str, str, Callable[[], Any], str]] = [
        *((name, "lie", lambda kind=kind: kind(small()), kind.__doc__) for name, kind in LIARS.items()),
        *((name, "honest", make, "") for name, make in HONEST.items()),
    ]
    same = known.loc[known["truth"] == "same", "true"]
    of_network = same.iloc[0] if len(same) else figures(small(), data, threat)["worst"]
    for name, kind, make, lie in models:
        if name in set(known["model"]):
            continue
        row = {"model": name, "kind": kind, "lie": lie.partition("\n")[0], "threat": threat}
        row |= {"images": int(data.rpartition(":")[2]), **figures(make(), data, threat)}
        if kind == "lie":
            liar = make()
            row |= {"truth": liar.truth, "true": true_accuracy(liar, data, threat, of_network)}
        yield row | {"outcome": outcome(row)}


def alarm_table(models: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each alarm that was raised, of refusal, and of any of them."""
    lie = models["kind"] == "lie"
    misleading = lie & models.apply(misleads, axis=1)
    flags = [ALARMS & set(text.split()) for text in models["flags"].fillna("")]
    told = {name: pd.Series([name in raised for raised in flags]) for name in sorted(set().union(*flags))}
    told[REFUSED] = models["outcome"] == REFUSED
    told["any"] = pd.concat(told, axis=1).any(axis=1)
    lines = []
    for alarm, raised in told.items():
        liars, honest = int((raised & lie).sum()), int((raised & ~lie).sum())
        line = {"alarm": alarm, "liars": liars, "honest": honest, "precision": liars / (liars + honest)}
        line |= {"recall": liars / lie.sum()}
        line |= {"recall_misleading": (raised & misleading).sum() / misleading.sum()}
        lines.append(line)
    return pd.DataFrame(lines).round(3)


def main() -> None:
    """Read the command line, and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("leaderboards/reliability"))
    parser.add_argument("--data", default="digits:test:40")
    parser.add_argument("--threat", default="Linf:0.1")
    asked = parser.parse_args()
    path = asked.out / "models.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    models = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    for row in rows(asked.data, asked.threat, models):
        models = pd.DataFrame([*models.to_dict("records"), row], columns=COLUMNS)
        models.to_csv(path, index=False, float_format="%.6g")
        print(*(f"{key}: {row.get(key)}" for key in ("model", "true", "worst", "flags", "outcome")), sep=", ")
    alarm_table(pd.read_csv(path)).to_csv(asked.out / "alarms.csv", index=False)


if __name__ == "__main__":
    main()
