"""On a GPU: drawing and attacks agree with the CPU within the interval."""

from __future__ import annotations

import pytest
import torch

from rstbench.attacks import AttackSpec
from rstbench.data import load
from rstbench.evaluation.evaluate import EvalSetting, run_tasks
from rstbench.evaluation.task import Task, clean_task
from rstbench.evidence.store import Store
from rstbench.models.sources.native import ticket_model
from rstbench.reports.statistics import confidence_interval
from rstbench.threat import Threat
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.training.recipe import recipe_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module")
def drawn(spec, weights, split):
    recipe = recipe_for(
        {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 3, "batch": 32}
    )
    return {
        device: [
            edge_popup(Search(spec, weights, ratio, split, recipe, device=device))[0]
            for ratio in ("0.3", "0.6")
        ]
        for device in ("cpu", "cuda")
    }


def measure(tickets, attack, device, folder):
    """Right answers of the two tickets, own and crossed, after one attack."""
    entries = tuple(ticket_model(ticket, ticket.remaining) for ticket in tickets)
    data = load("digits:test:100")
    setting, store = EvalSetting(data, 100, torch.device(device)), Store(folder)
    questions = [clean_task(entry) for entry in entries]
    spec = AttackSpec.parse(attack)
    questions += [Task(entry, entries, spec, Threat.parse("Linf:0.1"), 0) for entry in entries]
    assert not run_tasks(questions, setting, store)
    records = [store.read(trial.key) for q in questions for trial in q.trials(data, 100)]
    assert all(device in tally.device for record in records for tally in record.shards)
    return [record.bits.count("1") for record in records]


@pytest.mark.parametrize("attack", ["pgd", "autoattack:attacks=apgd-ce+apgd-t", "autoattack"])
def test_attacks_and_transfer_agree(drawn, attack, tmp_path):
    cpu = measure(drawn["cpu"], attack, "cpu", tmp_path / "cpu")
    gpu = measure(drawn["cpu"], attack, "cuda", tmp_path / "gpu")
    for one, other in zip(cpu, gpu, strict=True):
        low, high = confidence_interval(one / 100, 100)
        assert low <= other / 100 <= high


def test_drawing_agrees(drawn, tmp_path):
    for one, other in zip(drawn["cpu"], drawn["cuda"], strict=True):
        assert one.random_digest == other.random_digest
        assert one.kept_weights == other.kept_weights
    cpu, gpu = (measure(drawn[device], "pgd", device, tmp_path / device) for device in ("cpu", "cuda"))
    for one, other in zip(cpu, gpu, strict=True):
        low, high = confidence_interval(one / 100, 100)
        assert low <= other / 100 <= high
