"""Executors: each task with its own answer, or with its own fault."""

from __future__ import annotations

import pytest

from rstbench.errors import ModelFault
from rstbench.evaluation.executors import Local, Processes, WorkerDied

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
