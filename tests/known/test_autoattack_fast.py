"""The fast way of AutoAttack: the same verdicts, none that the exact model does not confirm."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

from rstbench.attacks.autoattack import AutoAttack
from rstbench.attacks.autoattack.apgd import APGD
from rstbench.attacks.autoattack.engine import attack, beyond_chance, run_stages
from rstbench.attacks.autoattack.fab import FAB, FAR, Walk
from rstbench.attacks.autoattack.pool import Pool, Rows
from rstbench.attacks.autoattack.source import Source
from rstbench.attacks.autoattack.square import Search, Square, linf_query, margin
from rstbench.attacks.autoattack.tiles import Window
from rstbench.attacks.mixture import FastModel
from rstbench.data import load
from rstbench.progress import listening
from rstbench.threat import Threat

EPS = {"Linf": "Linf:0.01", "L2": "L2:0.05", "L1": "L1:0.3"}
STAGES = {
    "apgd-ce": APGD("ce", 20),
    "apgd-t": APGD("dlr-targeted", 20, targets=3),
    "fab-t": FAB(targets=3, steps=20),
    "square": Square(200),
}


@pytest.fixture(scope="module")
def images(small_entries):
    """Images, and the classes that the small network gives them, so that all are right."""
    x = load("digits:test:24").at(slice(None))[0]
    return x, small_entries[0].module(x).argmax(1)


def verdict(crafted):
    return torch.stack(list(crafted.stages.values())).any(0)


@pytest.mark.parametrize("norm", EPS)
def test_it_fells_what_the_exact_way_fells(small_entries, images, norm):
    (x, y), threat, model = images, Threat.parse(EPS[norm]), small_entries[0].module
    exact = run_stages(Source(model), x, y, threat, STAGES, 0)
    fast = attack(Source(model, model), x, y, threat, STAGES, 0)
    assert verdict(fast).equal(verdict(exact))
    assert 0 < int(verdict(fast).sum()) < len(x), int(verdict(fast).sum())
    assert (model(fast.images).argmax(1) != y).equal(verdict(fast))
    assert fast.images[~verdict(fast)].equal(x[~verdict(fast)])
    assert int(sum(part.int() for part in fast.stages.values()).max()) == 1
    threat.check(x, fast.images)
    again = [attack(Source(model, model), x, y, threat, {"apgd-ce": APGD("ce", 10)}, 0) for _ in range(2)]
    assert again[0].images.equal(again[1].images)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_alone_fells_some(small_entries, images, name):
    (x, y), model = images, small_entries[0].module
    crafted = run_stages(Source(model, model), x, y, Threat.parse("Linf:0.2"), {name: STAGES[name]}, 0)
    assert int(crafted.stages[name].sum()) > 0


def test_a_copy_that_errs_fells_nothing(small_entries, images):
    """A copy that gets everything wrong claims success at once; the exact model knows better."""
    (x, y), model, threat = images, small_entries[0].module, Threat.parse("Linf:0.001")
    crafted = attack(Source(lambda x: -model(x), model), x, y, threat, STAGES, 0)
    assert not verdict(crafted).any()
    assert crafted.images.equal(x)


def test_a_weak_copy_is_noticed(small_entries, images):
    """Where the copy hides every gradient, the sample that is attacked exactly falls, and counts."""
    (x, y), model, threat = images, small_entries[0].module, Threat.parse("Linf:0.3")
    first = int(y[0])

    def weak(x):
        return torch.zeros(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True) + torch.eye(10)[first]

    same = y == first
    stages = {name: STAGES[name] for name in ("apgd-ce", "apgd-t")}
    crafted = attack(Source(weak, model), x[same], y[same], threat, stages, 0)
    assert int(verdict(crafted).sum()) == 1
    assert "acceleration-weakened" in crafted.flags
    assert (model(crafted.images).argmax(1) != first).equal(verdict(crafted))


def test_a_difference_beyond_chance():
    """Of one image 1/200 differ by chance, so one that differs has a probability below 5 %."""
    assert not beyond_chance(0, 1)
    assert beyond_chance(1, 1)
    assert beyond_chance(1, 10)
    assert not beyond_chance(1, 20)  # 1 - 0.995**20 = 0.095
    assert beyond_chance(2, 20)


class Copied(nn.Module):
    """A model that claims a faster copy, and counts what each is asked."""

    def __init__(self, exact):
        super().__init__()
        self.exact_model = self._asked_exactly
        self.exact, self.asked = exact, 0

    def forward(self, x):
        return self.exact(x)

    def _asked_exactly(self, x):
        self.asked += len(x)
        return self.exact(x)


def test_a_fast_model_takes_the_fast_way(small_entries, images):
    (x, y), threat = images, Threat.parse("Linf:0.15")
    model = Copied(small_entries[0].module)
    assert isinstance(model, FastModel)
    assert not isinstance(small_entries[0].module, FastModel)
    crafted = AutoAttack(attacks=("apgd-t",))(model, x, y, threat, Generator().manual_seed(0))
    assert 0 < int(verdict(crafted).sum()) <= model.asked


def pool(model, count=8, fast=True, place=None):
    x, y = load(f"digits:test:{count}").at(slice(None))
    place = torch.arange(count) if place is None else place
    return Pool(Source(model, model if fast else None), x[place], y[place], place, count, count, 5)


def test_rows_come_by_attempt_and_leave_when_their_image_breaks(small_entries):
    """As many at once as the shard has images, also where few of them are attacked."""
    attacked = pool(small_entries[0].module, 10, place=torch.arange(8))
    seen = []
    for rows in attacked.batches(3):
        seen.append(list(zip(rows.image.tolist(), rows.attempt.tolist(), strict=True)))
        attacked.broken[:6] = True
    assert seen == [
        [(image, 0) for image in range(8)] + [(0, 1), (1, 1)],
        [(6, 1), (7, 1), (6, 2), (7, 2)],
    ]


def test_random_numbers_do_not_depend_on_what_stands(small_entries):
    whole, part = pool(small_entries[0].module), pool(small_entries[0].module, place=torch.tensor([2, 5]))
    attempts = torch.tensor([0, 1])
    of_part = part.random(part._rows(torch.tensor([0, 1]), attempts), torch.rand, 3)
    of_whole = whole.random(whole._rows(torch.tensor([2, 5]), attempts), torch.rand, 3)
    assert of_part.equal(of_whole)
    assert not of_part[0].equal(of_part[1])


def test_it_reports_from_inside(small_entries, images):
    (x, y), model, reports = images, small_entries[0].module, []
    with listening(reports.append):
        attack(Source(model), x, y, Threat.parse("Linf:0.01"), STAGES, 0)
    assert {report.stage for report in reports} == set(STAGES)
    assert all(0 <= report.done <= report.total for report in reports)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert reports[-1].done > 0.9 * reports[-1].total
    assert reports[-1].images_left == round(reports[-1].robust * len(x))


@pytest.mark.parametrize("norm", EPS)
def test_steps_are_whole_graphs(small_entries, norm):
    """Each step can be captured: no graph break, and the same images."""
    model = small_entries[0].module
    attacked = pool(model)
    rows = attacked._rows(torch.arange(8), torch.zeros(8, dtype=torch.long))
    rows = rows._replace(target=(rows.y + 1) % 10)
    stage = APGD("dlr-targeted", 10, targets=1)

    def climb(run):
        return stage.step(attacked.source, run, norm, 0.2, first=False)

    run = stage._begin(attacked, rows, (rows.x + 0.01).clamp(0, 1), norm, 0.2)
    same(climb, run)
    walk = Walk(rows, rows.x.clone(), rows.x.clone(), torch.full((8,), FAR))
    same(lambda walk: FAB(targets=1).step(attacked.source, walk, norm, fast=True), walk)
    if norm == "Linf":
        low, high = (rows.x - 0.2).clamp(0, 1), (rows.x + 0.2).clamp(0, 1)
        search = Search(rows, low, high, low.clone(), margin(attacked.source, low, rows.y))
        colour = torch.ones(1, 1, 1)
        same(lambda s: linf_query(attacked.source, s, Window(2, 3, 4), colour, 0.2), search)


def same(step, state):
    """Run a step as it is and as one graph, on copies of a state, and compare all tensors."""
    torch.compiler.reset()
    captured = torch.compile(step, fullgraph=True, backend="aot_eager")
    plain, graph = flat(step(copied(state))), flat(captured(copied(state)))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(plain, graph, strict=True))


def copied(state):
    parts = [copied(part) if isinstance(part, Rows) else part.clone() for part in state]
    return type(state)(*parts)


def flat(state):
    return [tensor for part in state for tensor in (flat(part) if isinstance(part, Rows) else [part])]
