"""A run written by hand: evidence and manifest of few models, without any model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rstbench.evidence.examples import join_parts
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial
from rstbench.reports.lookup import Evidence

NEAR, FAR = "Linf:1/10", "Linf:1/5"
PGD, STOPPED, AUTO = "pgd", "pgd:early_stop=true", "autoattack"
STRANGER = "<script>alert(1)</script>"
HAND_CARDS = {
    "a" * 64: ModelInfo("rst-0.1", "ticket", "rst", "conv4", 0.1, 10, 100, family="rst", ratio="0.1"),
    "b" * 64: ModelInfo(
        "rst-0.2", "ticket", "rst", "conv4", 0.2, 20, 100, ("selected-on-test",), family="rst", ratio="0.2"
    ),
    "d" * 64: ModelInfo("dense", "trained", "adversarial-training", "conv4", 1.0, 100, 100, family="dense"),
    "e" * 64: ModelInfo(STRANGER, "external", "", "", None, 50, 50),
    "s" * 64: ModelInfo(
        "switch-rst",
        "switch",
        "rst",
        "conv4",
        None,
        30,
        100,
        members=("a" * 64, "b" * 64),
        weights=(0.5, 0.5),
    ),
}


def write_hand_run(root, names=None, rows=None, study=None):
    """Write a run of two tickets, their switch, a dense network and a stranger, whose name is a script, at two
    radii; return its evidence. Answers are drawn at random, but always the same. names: other names."""
    cards = {m: replace(c, name=(names or {}).get(c.name, c.name)) for m, c in HAND_CARDS.items()}
    random, store, keys, images = np.random.RandomState(0), Store(root), set(), 20
    a, b, d, e, s = HAND_CARDS
    asked = [(m, m, "clean", "", 0.9) for m in (a, b, d, e)]
    for threat, right in ((NEAR, 0.7), (FAR, 0.4)):
        asked += [(m, m, PGD, threat, right) for m in (a, b, d, e)]
        asked += [(x, y, attack, threat, right) for x, y in ((a, b), (b, a)) for attack in (PGD, STOPPED)]
        asked += [(m, m, STOPPED, threat, right) for m in (a, b)]
        asked += [(s, m, PGD, threat, right) for m in (a, b)]
    asked += [(m, m, AUTO, NEAR, 0.6) for m in (a, b, d)]  # the stranger's failed
    for source, target, attack, threat, right in asked:
        clean = attack == "clean"
        bits = "".join("1" if value < right else "0" for value in random.random(images))
        trial = Trial(source, target, attack, threat, "data", 20, 0)
        wrong = bits.replace("0", "x").replace("1", "0").replace("x", "1")
        stages = {"apgd-ce": wrong, "square": "0" * images} if attack == AUTO else {}
        cost = (0, 0) if clean else (420, 400)
        tally = ShardResult(0, bits, stages, (), *cost, 0.25, "cpu", 2, {"torch": "2", "rstbench": "0"})
        store.add(trial, tally, {m: cards[m] for m in (source, target)}, "digits:test")
        keys.add(trial.key)
    every = [Row(m, t, 0, (PGD, AUTO) if t == NEAR else (PGD,)) for t in (NEAR, FAR) for m in (a, b, d, e)]
    every += [Row(s, threat, 0, (PGD,)) for threat in (NEAR, FAR)]
    run = {"data": "digits:test", "data_digest": "data", "batch": 20, "device": "cpu", "threads": 2}
    Manifest(
        study=study or {"name": "by hand", "attacks": [PGD, {"attack": AUTO, "threat": NEAR}]},
        run={**run, "versions": {"rstbench": "0", "torch": "2"}},
        images=images,
        models=cards,
        rows=tuple(every if rows is None else rows),
        groups=((a, b),),
        keys=tuple(keys),
        failures=("<b>autoattack</b> raised",),
    ).save(root)
    x = random.random((8, 1, 8, 8)).astype(np.float32)
    noise = (random.randint(0, 2, x.shape) * 0.2 - 0.1).astype(np.float32)
    join_parts(
        root,
        {
            "data/images": x,
            "data/labels": np.arange(8),
            f"{a}/{PGD}/{NEAR}/0/adversarial": np.clip(x + noise, 0, 1),
            f"{a}/{PGD}/{NEAR}/0/predicted": np.array([0, 1, 2, 3, 4, 5, 6, -1]),
        },
    )
    return Evidence.read(root)
