"""Executors: each task with its own answer, or with its own fault."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from functools import partial

import pytest
import torch

from rstbench.attacks import AttackSpec
from rstbench.data import load
from rstbench.errors import BadRequest, ModelFault
from rstbench.evaluation.evaluate import EvalSetting, run_tasks
from rstbench.evaluation.executors import Local, Processes, WorkerDied
from rstbench.evaluation.task import Task, clean_task
from rstbench.evaluation.timed import ExecutorFault, TookTooLong
from rstbench.evaluation.workers import (
    AUTO,
    at_once,
    cores,
    executor_for,
    pick_timeout,
    pick_workers,
    threads_for,
)
from rstbench.evidence.store import Store
from rstbench.models.wrapper import load_reference
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
        dict(Processes(2).map(eval, ["1 + 1", DIES, "2 + 2"], retry=False))


HANGS = "__import__('time').sleep(1000)"


def test_a_task_that_takes_too_long_is_ended_and_costs_no_other_its_answer():
    tasks = ["1 + 1", HANGS, "2 + 2", DIES, "3 + 3"]
    answers = dict(Processes(2).map(eval, tasks, timeout=1.0))
    assert isinstance(answers.pop(HANGS), TookTooLong)
    assert isinstance(answers.pop(DIES), WorkerDied)
    assert answers == {"1 + 1": 2, "2 + 2": 4, "3 + 3": 6}
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("executor", [Local(), Processes(1)])
def test_what_cannot_be_ended_is_not_run(executor):
    ((_, fault),) = executor.map(run, [Unsent()], timeout=1.0)
    assert isinstance(fault, ExecutorFault)
    assert "leave out --shard-timeout" in str(fault)


class Recording(Local):
    """Runs tasks here, and remembers the attack of each."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "attacks", [])

    def map(self, function, tasks, **how):
        for task, answer in super().map(function, tasks, **how):
            self.attacks.append(task.trials[0].attack)
            yield task, answer


def test_attacks_go_to_the_executor_of_the_setting_whatever_its_width(small_entries, tmp_path):
    executor, model = Recording(), small_entries[0]
    setting = EvalSetting(load("digits:test:4"), 2, torch.device("cpu"), executor)
    attack = Task(model, (model,), AttackSpec.parse("pgd:steps=1"), Threat.parse("Linf:0.1"))
    assert run_tasks([clean_task(model), attack], setting, Store(tmp_path)) == []
    assert executor.attacks == ["pgd:steps=1"] * 2


def test_one_worker_is_this_process_and_more_are_others():
    cpu = torch.device("cpu")
    assert executor_for(1, cpu) == Local()
    assert executor_for(3, cpu) == Processes(3)
    assert executor_for(AUTO, cpu).width == cores()
    assert executor_for(AUTO, torch.device("cuda")) == Local()
    assert executor_for(1, cpu, timeout=9.0) == Processes(1)
    assert executor_for(AUTO, torch.device("cuda"), timeout=9.0).width == 1


def test_a_time_is_read():
    assert pick_timeout("0.5") == 0.5
    for text in ("0", "-1", "nan", "inf", "soon", ""):
        with pytest.raises(BadRequest, match="--shard-timeout reads seconds above 0"):
            pick_timeout(text)


@pytest.mark.parametrize(("text", "workers"), [("auto", AUTO), ("1", 1), ("12", 12)])
def test_workers_are_read(text, workers):
    assert pick_workers(text) == workers


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "٣", ""])
def test_no_number_of_workers_is_refused(text):
    with pytest.raises(BadRequest, match="--workers reads auto or a number of processes"):
        pick_workers(text)


def test_little_work_and_large_networks_are_not_shared_out():
    several = Processes(2, worth=30.0)
    assert at_once(several, 1, 29.0) == 1
    assert at_once(several, 1, 31.0) == 2
    assert at_once(Processes(2), 1, 0.1) == 2
    assert at_once(several, cores(), 31.0) == 1
    assert at_once(several, 0, 31.0) == min(2, cores())  # on a GPU, and a network made alone
    assert threads_for(1e6) == 1
    assert threads_for(1e12) == min(4, torch.get_num_threads())


PID = "__import__('os').getpid()"


def test_a_pool_is_kept_from_one_map_to_the_next():
    with Processes(1) as executor:
        found = {pid for _ in range(2) for _, pid in executor.map(eval, [PID])}
    assert len(found) == 1
    assert os.getpid() not in found


def asked(executor, expression, *tasks):
    """What an expression gives of each task, a dictionary, wherever it is run."""
    return [answer for _, answer in executor.map(partial(eval, expression), tasks)]


def test_a_model_is_sent_once(small_entries):
    model, x = small_entries[0], torch.rand(2, 1, 8, 8)
    task = {"model": model, "again": model, "x": x}
    with Processes(1) as executor:
        one, other = asked(
            executor, "(id(model), model.digest, model.module(x).tolist(), model is again)", task, dict(task)
        )
    assert one == other
    assert one[1:] == (model.digest, model.module(x).tolist(), True)


OWN = """
import torch
from torch import nn
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(64, 10)
    def forward(self, x):
        return self.fc(x.flatten(1))
"""


def test_a_model_of_a_users_file_is_loaded_again_and_one_in_hand_stays(tmp_path):
    (tmp_path / "m.py").write_text(OWN)
    named = load_reference(f"file:{tmp_path}/m.py:Own")
    where = f"({PID}, model.digest)"
    with Processes(1) as executor:
        ((pid, digest),) = asked(executor, where, {"model": named})
        assert (pid != os.getpid(), digest) == (True, named.digest)
        ((pid, _),) = asked(executor, where, {"model": replace(named, origin=None)})
        assert pid == os.getpid()
    (tmp_path / "m.py").write_text(OWN.replace("manual_seed(0)", "manual_seed(1)"))
    # The file names another model by now.
    assert asked(Processes(1), where, {"model": named}) == [(os.getpid(), named.digest)]
