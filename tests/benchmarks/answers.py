"""The figures of leaderboards/README.md, from the evidence of the folders beside it.

`python tests/benchmarks/answers.py > leaderboards/answers.csv`

A line a figure, in points: the mean over seeds with its 95 % interval over images, each of which counts
with its mean over seeds, and the mean of each seed. Intervals are Wilson's for accuracies and those of
compare.csv for differences, which are of both models on the same images.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from rstbench.reports.lookup import Evidence
from rstbench.reports.per_image import per_image_answers
from rstbench.reports.statistics import confidence_interval, paired
from rstbench.reports.switch import baselines
from rstbench.reports.switch_bounds import switches

ROOT = Path(__file__).parent.parent.parent / "leaderboards"
COLUMNS = ["question", "folder", "figure", "seeds", "images", "mean", "low", "high", "by_seed"]
BySeed = Mapping[int, np.ndarray]  # probabilities of being right, (images,)
Line = tuple[int, str, str, BySeed, BySeed | None]  # question, folder, figure, of what, less what


@cache
def evidence(folder: str) -> Evidence:
    return Evidence.read(ROOT / folder)


@cache
def models(folder: str, measure: str, threat: str) -> Mapping[str, BySeed]:
    """Return each model's answers under an attack, `clean`, `worst` or `certified`, by name without seed."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for row in evidence(folder).manifest.rows:
        answers = per_image_answers(evidence(folder), row) if row.threat == threat else None
        if answers is not None:
            values = {**answers.attacks, **{name: getattr(answers, name) for name in ("worst", "certified")}}
            if (right := values.get(measure)) is not None:
                name = evidence(folder).info(row.model).name.removesuffix(f"-seed{row.seed}")
                found.setdefault(name, {})[row.seed] = right
    return found


def size() -> Iterator[Line]:
    """Tickets against adversarial training of the dense network, and of their size."""
    for folder, ratios in (("methods/digits", ("0.05", "0.2", "0.5")), ("methods/mnist", ("0.1", "0.4"))):
        robust = models(folder, "autoattack", "Linf:0.1")
        for ratio in ratios:
            rst = robust[f"rst-{ratio}"]
            for other in ("dense", f"random-trained-{ratio}", f"rst-trained-{ratio}"):
                yield 1, folder, f"AutoAttack: rst-{ratio} less {other}", rst, robust[other]
    robust = models("ablations/digits", "pgd", "Linf:0.1")
    for ratio in ("0.05", "0.1", "0.2", "0.5"):
        rst, narrow = robust[f"rst-{ratio}"], robust[f"narrow-{ratio}"]
        yield 1, "ablations/digits", f"PGD-20: rst-{ratio} less narrow-{ratio}", rst, narrow
    robust = models("certified/digits", "worst", "Linf:0.05")
    figure = "worst at 0.05: rst-0.05 less narrow"
    yield 1, "certified/digits", figure, robust["rst-0.05"], robust["narrow"]


def attacks() -> Iterator[Line]:
    """What AutoAttack takes off the figure of PGD-20."""
    for folder in ("digits", "switch/digits", "switch/mnist", "methods/digits", "methods/mnist"):
        pgd, autoattack = (models(folder, attack, "Linf:0.1") for attack in ("pgd", "autoattack"))
        tickets = [name for name in pgd if name.startswith("rst-0")]
        (dense,) = (name for name in pgd if name in ("dense", "dense-adversarial"))
        figure = f"PGD-20 less AutoAttack: mean of {len(tickets)} tickets"
        yield 2, folder, figure, *(mean_of([found[name] for name in tickets]) for found in (pgd, autoattack))
        most = max(tickets, key=lambda name: mean(pgd[name]) - mean(autoattack[name]))
        for name, what in ((most, "ticket that loses most, "), (dense, "")):
            yield 2, folder, f"PGD-20 less AutoAttack: {what}{name}", pgd[name], autoattack[name]


def mean(by_seed: BySeed) -> float:
    return float(np.mean(list(by_seed.values())))


def mean_of(listed: Sequence[BySeed]) -> BySeed:
    return {seed: np.mean([by_seed[seed] for by_seed in listed], axis=0) for seed in listed[0]}


def switch() -> Iterator[Line]:
    """What switching is worth under the worst of all crafted sets, with equal probabilities."""
    for folder in ("switch/digits", "switch/mnist"):
        pgd = models(folder, "pgd", "Linf:0.1")
        tickets = mean_of([by_seed for name, by_seed in pgd.items() if name.startswith("rst-0")])
        found: dict[str, dict[int, np.ndarray]] = {}
        for row, bits in switches(evidence(folder)):
            if len(set(bits.weights)) == 1:
                # Of T2 the last is not wanted, only T0 and the minimum, of which there is one each.
                found |= {
                    result.level: {**found.get(result.level, {}), row.seed: result.robust()}
                    for result in bits.attackers()
                }
                for baseline in baselines(evidence(folder), row, bits):
                    found[baseline.role] = {**found.get(baseline.role, {}), row.seed: baseline.robust}
        yield 3, folder, "T0 of the paper, less the tickets under their own PGD-20", found["T0"], tickets
        for role in ("mean-member", "best-member", "dense"):
            yield 3, folder, f"worst of all sets, less {role}", found["minimum"], found[role]


def methods() -> Iterator[Line]:
    """The other ways to find networks, as they are and trained with their mask fixed."""
    for folder, ratios in (("methods/digits", ("0.05", "0.5")), ("methods/mnist", ("0.1", "0.4"))):
        robust = models(folder, "autoattack", "Linf:0.1")
        for ratio in ratios:
            found = ["rst", "binary", "hydra", "early", "reconstruct", "natural", "aws"]
            found += ["snip", "grasp", "awt", "magnitude", "random"]
            for name in found:
                for trained in (name, f"{name}-trained"):
                    if f"{trained}-{ratio}" in robust:
                        yield 4, folder, f"AutoAttack: {trained}-{ratio}", robust[f"{trained}-{ratio}"], None
        yield 4, folder, "AutoAttack: dense", robust["dense"], None


def certificates() -> Iterator[Line]:
    """What is certified, beside what attacks leave."""
    folder = "certified/digits"
    for eps in ("0.02", "0.03", "0.05"):
        worst, proved = (models(folder, measure, f"Linf:{eps}") for measure in ("worst", "certified"))
        for name in ("rst-0.05", "rst-0.2", "narrow", "random-trained-0.05", "dense-adversarial"):
            yield 5, folder, f"certified at {eps}: {name}", proved[name], None
            yield 5, folder, f"not broken at {eps}: {name}", worst[name], None


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for part in (size, attacks, switch, methods, certificates):
        for question, folder, figure, one, other in part():
            own = np.mean(list(one.values()), axis=0)
            if other is None:
                figures = (float(own.mean()), *confidence_interval(float(own.mean()), len(own)))
            else:
                figures = paired(own, np.mean(list(other.values()), axis=0))
            seeds = [one[seed].mean() - (other[seed].mean() if other else 0) for seed in sorted(one)]
            rounded = [f"{100 * value + 0:.1f}" for value in (*figures, *seeds)]
            table.writerow(
                [question, folder, figure, len(one), len(own), *rounded[:3], " ".join(rounded[3:])]
            )


if __name__ == "__main__":
    main()
