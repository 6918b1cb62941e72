"""Crafting precision: what a question says of it, which answers serve, and how copies are settled."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rstbench.attacks import AttackSpec
from rstbench.attacks.mixture import FastModel, Mixture
from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.evaluation.copies import ITSELF, CopyPlanner, plan_of
from rstbench.evaluation.counting import PassCounter, _FastCounted
from rstbench.evaluation.crafting import pick_crafting, settle
from rstbench.evaluation.evaluate import EvalSetting, run_tasks
from rstbench.evaluation.executors import Local, Processes
from rstbench.evaluation.task import Task, clean_task
from rstbench.evidence.store import Store, record_file
from rstbench.evidence.trial import EXACT, FAST, ModelInfo, ShardResult, Trial
from rstbench.models.fast_copy import CopyPlan
from rstbench.models.wrapper import wrap, wrap_switch
from rstbench.threat import Threat

BOARDS = Path(__file__).parent.parent.parent / "leaderboards"
TRIAL = Trial("a" * 64, "b" * 64, "pgd", "Linf:0.1", "d" * 64, 50, 0)
KEY = "9cc2879bf68a668da32456bfc9583123a1e3f8fcbb54886926037eff606a84dd"
CARDS = {"a" * 64: ModelInfo("left", "ticket"), "b" * 64: ModelInfo("right", "ticket")}
PGD, T = AttackSpec.parse("pgd:steps=2"), Threat.parse("Linf:0.1")
CPU = torch.device("cpu")


def test_an_exact_question_keeps_its_key_and_a_fast_one_is_another(tmp_path):
    assert TRIAL.key == KEY
    assert replace(TRIAL, crafting=FAST).key != KEY
    store = Store(tmp_path)
    store.add(TRIAL, ShardResult(0, "01"), CARDS, "digits:test")
    written = store.path(KEY).read_text()
    assert "crafting" not in written
    assert "copy" not in written
    assert store.read(KEY).trial == TRIAL


@pytest.mark.parametrize("board", ["digits", "switch/digits"])
def test_committed_questions_and_answers_are_written_as_they_were(board):
    store = Store(BOARDS / board)
    keys = store.keys()
    assert keys
    for key in keys:
        record, lines = store.read(key), store.pack().read(key).splitlines()
        assert (record.trial.key, record.trial.crafting) == (key, EXACT)
        written = record_file(record).splitlines()
        assert written[1:] == lines[1:]
        assert json.loads(written[0])["trial"] == json.loads(lines[0])["trial"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"crafting":"fast"', '"crafting":"fats"'),
        ('"crafting":"fast"', '"crafting":["fast"]'),
        ('"layout":"none"', '"layout":7'),
        ('{"a":{"layout":"none"}}', '["a"]'),
    ],
)
def test_another_crafting_or_copy_is_damage(tmp_path, old, new):
    store, trial = Store(tmp_path), replace(TRIAL, crafting=FAST)
    copied = ShardResult(0, "01", copy={"a": {"layout": "none"}})
    store.add(trial, copied, CARDS, "digits:test")
    assert store.read(trial.key).shards == (copied,)
    path = store.path(trial.key)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(BadFile, match="damaged"):
        store.read(trial.key)


def test_only_two_craftings_are_known():
    assert [pick_crafting(text) for text in ("fast", "exact")] == [FAST, EXACT]
    with pytest.raises(BadRequest, match="no crafting named 'fats'; did you mean 'fast'"):
        pick_crafting("fats")


def setting_for(images, crafting=FAST, executor=None):
    return EvalSetting(load(f"digits:test:{images}"), 2, CPU, executor or Local(), crafting)


def records(store):
    return list(map(store.read, store.keys()))


def ask(tasks, setting, store):
    """Settle and run; returns the craftings that were asked for."""
    settled = settle(tasks, setting, store)
    assert run_tasks(settled, setting, store) == []
    return [task.crafting for task in settled]


def test_a_fast_request_takes_complete_exact_answers_and_no_others(small_entries, tmp_path):
    (one, other), store = small_entries, Store(tmp_path)
    own, judged = Task(one, (one,), PGD, T), Task(one, (one, other), PGD, T)
    assert ask([clean_task(one), own], setting_for(2, EXACT), store) == [EXACT, EXACT]
    fast = setting_for(2)
    assert settle([clean_task(one), own], fast, store) == [clean_task(one), own]
    assert settle([judged], fast, store) == [replace(judged, crafting=FAST)]  # one judge has no answer
    assert settle([own], setting_for(4), store) == [replace(own, crafting=FAST)]  # nor have two images
    lost = settle([own], fast, store, lambda trial, start: False)
    assert lost == [replace(own, crafting=FAST)]


def test_an_exact_request_takes_no_fast_answers(small_entries, tmp_path):
    model, store = small_entries[0], Store(tmp_path)
    tasks = [clean_task(model), Task(model, (model,), PGD, T)]
    assert ask(tasks, setting_for(2), store) == [EXACT, FAST]
    assert len(records(store)) == 2
    assert ask(tasks, setting_for(2, EXACT), store) == [EXACT, EXACT]
    kinds = sorted((record.trial.attack, record.trial.crafting) for record in records(store))
    assert kinds == [("clean", EXACT), (str(PGD), EXACT), (str(PGD), FAST)]
    for record in records(store):
        assert [set(shard.copy) for shard in record.shards] == [
            {model.digest} if record.trial.crafting == FAST else set()
        ]


@pytest.mark.parametrize(
    ("executor", "layout"), [(Local(), "contiguous"), (Local(), "none"), (Processes(2), "none")]
)
def test_a_copy_is_settled_once_for_later_shards_and_workers(small_entries, tmp_path, executor, layout):
    """Whatever the planner would choose today, a resumed question goes on as it began."""
    switch = wrap_switch(small_entries, "both")
    first, again = Store(tmp_path / "first"), Store(tmp_path / "again")
    task = Task(switch, switch.members, PGD, T)
    assert ask([task], setting_for(2), first) == [FAST]
    plans = {member.digest: CopyPlan(layout).as_plain() for member in small_entries}
    for record in records(first):
        (shard,) = record.shards
        assert shard.copy.keys() == plans.keys()
        again.add(record.trial, replace(shard, copy=plans, threads=2), record.models, record.data)
    before = torch.get_num_threads()
    assert ask([task], setting_for(6, executor=executor), again) == [FAST]
    assert torch.get_num_threads() == before
    for record in records(again):
        assert [shard.start for shard in record.shards] == [0, 2, 4]
        assert [(shard.copy, shard.threads) for shard in record.shards] == [(plans, 2)] * 3


def test_a_copy_that_is_not_known_is_refused(small_entries, tmp_path):
    model, store = small_entries[0], Store(tmp_path)
    (trial,) = Task(model, (model,), PGD, T, crafting=FAST).trials(setting_for(4).data, 2)
    store.add(trial, ShardResult(0, "11", copy={model.digest: {"shape": "round"}}), CARDS, "digits")
    with pytest.raises(BadFile, match=f"{model.info.name}: the stored images from 0 on"):
        ask([Task(model, (model,), PGD, T)], setting_for(4), store)


def test_each_model_is_planned_once_a_run(small_entries):
    images, _ = load("digits:test:4").at(slice(None))
    planner, (one, other) = CopyPlanner(CPU), small_entries
    alone = planner.setting(one, [], images, 1)
    both = planner.setting(wrap_switch([one, other], "both"), [], images, 1)
    assert both.plans.keys() == {one.digest, other.digest}
    assert both.plans[one.digest] is alone.plans[one.digest]
    assert (alone.threads, both.threads) == (1, 1)


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()

    def eval(self):
        raise RuntimeError("never")

    def forward(self, x):
        return self.flat(x)[:, :10]


class Shy(Stubborn):
    def eval(self):
        return self.train(False)

    def forward(self, x):
        if x.requires_grad:
            raise RuntimeError("no gradients here")
        return super().forward(x)


def test_a_model_that_cannot_be_planned_is_attacked_itself(tmp_path):
    images, _ = load("digits:test:4").at(slice(None))
    assert plan_of(wrap(Stubborn(), ModelInfo("stubborn", "external")), images, CPU) == ITSELF
    model, faults = wrap(Shy(), ModelInfo("shy", "external")), []
    for crafting in (EXACT, FAST):
        task = Task(model, (model,), PGD, T, crafting=crafting)
        faults += map(str, run_tasks([clean_task(model), task], setting_for(4), Store(tmp_path / crafting)))
    assert len(faults) == 2
    assert faults[0] == faults[1]
    assert faults[0].startswith("shy, pgd:steps=2")


def test_attacks_are_given_fast_models_only_in_fast_crafting(small_entries):
    x, _ = load("digits:test:4").at(slice(None))
    switch = wrap_switch(small_entries, "both")
    for model in small_entries:
        model.module.eval()
    plans = {model.digest: CopyPlan("none") for model in small_entries}
    for model in (small_entries[0], switch):
        exact, counter = PassCounter().counted(model, x), PassCounter()
        fast = counter.counted(model, x, plans)
        assert not isinstance(exact, FastModel)
        assert isinstance(fast, FastModel)
        assert isinstance(fast, Mixture) == isinstance(exact, Mixture) == bool(model.members)
        logits = fast.exact_model(x)
        assert (logits.dtype, logits.requires_grad) == (torch.float32, False)
        assert (counter.forwards, counter.backwards) == (4 * max(1, len(model.members)), 0)
        modules = [member.module for member in model.members or (model,)]
        with torch.no_grad():
            if model.members:
                wanted = torch.stack([module(x).softmax(1) for module in modules]).mean(0).log()
            else:
                wanted = modules[0](x)
        torch.testing.assert_close(logits, wanted)
        torch.testing.assert_close(fast(x), wanted, atol=1e-3, rtol=1e-3)
    assert all(isinstance(member, FastModel) for member in fast.members)
    assert not any(isinstance(member, FastModel) for member in exact.members)


def test_the_counted_model_crafts_on_the_copy_beside_the_module():
    """A copy that is twice the module, so that the two can be told apart."""
    exact, copy = nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        copy[1].weight.copy_(2 * torch.eye(4))
    x = torch.rand(3, 1, 2, 2)
    model = _FastCounted(copy, exact, PassCounter())
    torch.testing.assert_close(model(x), 2 * x.flatten(1))
    torch.testing.assert_close(model.exact_model(x), x.flatten(1))


def test_the_copies_of_a_source_are_made_once(small_entries):
    x, _ = load("digits:test:4").at(slice(None))
    one, _ = small_entries
    for model in small_entries:
        model.module.eval().requires_grad_(False)
    plans = {model.digest: CopyPlan() for model in small_entries}
    switch = PassCounter().counted(wrap_switch(small_entries, "both"), x, plans)
    again = PassCounter().counted(one, x, plans)
    assert again.module is switch.members[0].module
    assert again.exact_model.module is one.module
    assert PassCounter().counted(one, x, {one.digest: CopyPlan("channels-last")}).module is not again.module
    # Where the module gives the gradients it is that of the shard, not that of one before.
    twin, own = replace(one, module=deepcopy(one.module)), {one.digest: CopyPlan("none")}
    assert PassCounter().counted(one, x, own).module is one.module
    assert PassCounter().counted(twin, x, own).module is twin.module
