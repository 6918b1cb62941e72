"""Executors: each task with its own answer, or with its own fault."""

from __future__ import annotations

import pytest
import torch

from rstbench.attacks import AttackSpec
from rstbench.data import load
from rstbench.errors import ModelFault
from rstbench.evaluation.evaluate import AttackTask, EvalSetting, clean_task, run_tasks
from rstbench.evaluation.executors import Local, Processes, WorkerDied, executor_for
from rstbench.evidence.store import Store
from rstbench.threat import Threat

DIES = "__import__('os')._exit(3)"


@pytest.mark.parametrize("executor", [Local(), Processes(1), Processes(2)])
def test_every_task_has_its_answer(executor):
    assert dict(executor.map(eval, [f"{number} + 1" for number in range(5)])) == {
        f"{number} + 1": number + 1 for number in range(5)
    }


@pytest.mark.parametrize("width", [1, 2])
def test_a_task_that_kills_its_process_costs_no_other_its_answer(width):
    tasks = ["1 + 1", DIES, "2 + 2", "3 + 3", "4 + 4"]
    answers = dict(Processes(width).map(eval, tasks))
    died = answers.pop(DIES)
    assert isinstance(died, WorkerDied)
    assert "a worker process was killed" in str(died)
    assert answers == {"1 + 1": 2, "2 + 2": 4, "3 + 3": 6, "4 + 4": 8}


class Unsent:
    """Says itself that a copy would be another task."""

    portable = False

    def __reduce__(self):
        raise SystemExit("never sent")

    def __call__(self):
        raise ModelFault("asked here")


def run(task):
    return task()


def test_a_task_that_cannot_be_sent_is_run_here():
    ((_, fault),) = Processes(2).map(run, [Unsent()])
    assert str(fault) == "asked here"


@pytest.mark.parametrize("executor", [Local(), Processes(2)])
def test_a_task_waits_for_the_answers_it_needs(executor):
    waiting, answers = {"1 + 1": None, "{} + 3": "1 + 1", "2 * 2": None, "{} + 5": "2 * 2"}, {}

    def tasks():
        while waiting:
            ready = next((text for text, needs in waiting.items() if not needs or needs in answers), None)
            if ready is None:
                yield None
                continue
            needs = waiting.pop(ready)
            yield ready.format(answers.get(needs))

    for task, answer in executor.map(eval, tasks()):
        answers[task] = answer
    assert answers == {"1 + 1": 2, "2 + 3": 5, "2 * 2": 4, "4 + 5": 9}


def test_a_killed_process_ends_it_all_where_nothing_is_retried():
    with pytest.raises(WorkerDied, match="a worker process was killed"):
        dict(Processes(2, retry=False).map(eval, ["1 + 1", DIES, "2 + 2"]))


class Recording(Local):
    """Runs tasks here, and remembers the attack of each."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "attacks", [])

    def map(self, function, tasks):
        for task, answer in super().map(function, tasks):
            self.attacks.append(task.trials[0].attack)
            yield task, answer


def test_attacks_go_to_the_executor_of_the_setting_whatever_its_width(small_entries, tmp_path):
    executor, model = Recording(), small_entries[0]
    setting = EvalSetting(load("digits:test:4"), 2, torch.device("cpu"), executor)
    attack = AttackTask(model, (model,), AttackSpec.parse("pgd:steps=1"), Threat.parse("Linf:0.1"))
    assert run_tasks([clean_task(model), attack], setting, Store(tmp_path)) == []
    assert executor.attacks == ["pgd:steps=1"] * 2


def test_one_worker_is_this_process_and_more_are_others():
    assert executor_for(1) == Local()
    assert executor_for(3, retry=False) == Processes(3, retry=False)
