"""The screening attack: what it runs, what it costs, and what its figures may not hide."""

from __future__ import annotations

import pytest
import torch

from rstbench.attacks import AttackSpec
from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.evaluation.counting import PassCounter
from rstbench.models.frozen import frozen_eval
from rstbench.threat import Threat

STANDARD = 9765  # passes, forward and backward, of standard AutoAttack on an image that survives


def craft(entry, threat, images=20):
    x, y = load(f"digits:test:{images}").at(slice(None))
    with frozen_eval(entry.module, torch.device("cpu")):
        counter = PassCounter()
        attack = AttackSpec.parse("screen").attack
        found = attack(counter.counted(entry, x), x, y, threat, torch.Generator().manual_seed(0))
        with torch.no_grad():
            right, clean = (entry.module(images).argmax(1) == y for images in (found.images, x))
    return found, right, clean, counter.forwards + counter.backwards


def test_a_survivor_costs_a_twentieth_of_autoattack(small_entries):
    _, right, clean, passes = craft(small_entries[0], Threat.parse("Linf:1/1000"))
    assert right.equal(clean)
    assert 0.8 * STANDARD / 20 * int(right.sum()) < passes < STANDARD / 20 * len(right)


@pytest.mark.parametrize("norm", ["Linf:0.1", "L2:0.7", "L1:4"])
def test_it_breaks_what_falls_easily_and_says_which_stage_did(small_entries, norm):
    threat = Threat.parse(norm)
    found, right, clean, _ = craft(small_entries[1], threat)
    broken = torch.stack(list(found.stages.values())).any(0)
    assert list(found.stages) == ["apgd-ce", "apgd-t", "square"]
    assert int(broken.sum()) > 0
    assert right.equal(clean & ~broken)
    threat.check(load("digits:test:20").at(slice(None))[0], found.images)


def test_few_classes_are_attacked_without_targets():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 2
    found = AttackSpec.parse("screen").attack(net, x, y, Threat.parse("Linf:0.1"), torch.Generator())
    assert list(found.stages) == ["apgd-ce", "square"]


def test_numbers_below_one_are_refused():
    with pytest.raises(BadRequest, match="at least 1"):
        AttackSpec.parse("screen:queries=0")
