"""Where there is no memory for all images at once, fewer pass, and the answers are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from rstbench.attacks import AttackSpec
from rstbench.data import load
from rstbench.errors import ModelFault
from rstbench.evaluation import shard as shard_module
from rstbench.evaluation.copies import ITSELF, CopySetting
from rstbench.evaluation.evaluate import EvalSetting, run_tasks
from rstbench.evaluation.memory import halving, is_out_of_memory, passed
from rstbench.evaluation.shard import Shard
from rstbench.evaluation.task import Task, clean_task
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult
from rstbench.models.wrapper import wrap
from rstbench.progress import Silent
from rstbench.threat import Threat

IMAGES = 24


class Narrow(nn.Module):
    """Raises for more images than `most`, as a device without memory does; the limit is no part of it."""

    most, in_backward, writes = 10**9, False, False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    def forward(self, x):
        if len(x) > Narrow.most and not (Narrow.in_backward and x.requires_grad):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        if Narrow.writes:
            x *= 0.5
        logits = self.net(x)
        if Narrow.in_backward and logits.requires_grad:
            logits.register_hook(_refuse_many)
        return logits


def _refuse_many(gradient):
    if len(gradient) > Narrow.most:
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def narrow(monkeypatch):
    def set_limit(most, **how):
        for name, value in {"most": most, **how}.items():
            monkeypatch.setattr(Narrow, name, value)

    return set_limit


def task(attack, module=None):
    model = wrap(module or Narrow(), ModelInfo("narrow", "external"))
    return Task(model, (model,), AttackSpec.parse(attack), Threat.parse("Linf:0.1"))


def answer(asked, copies=None, rows=0):
    images = load("digits:test").first(IMAGES)
    trials = asked.trials(images, IMAGES)
    attack = asked.attack.attack if asked.attack else None
    cpu = torch.device("cpu")
    one = Shard(
        asked.source, asked.targets, trials, attack, asked.threat, images, 0, cpu, 1, copies, rows=rows
    )
    return shard_module.run(one)


@pytest.mark.parametrize("how", [{}, {"in_backward": True}, {"writes": True}])
@pytest.mark.parametrize(
    "attack", ["pgd:restarts=2,steps=5", "autoattack:attacks=apgd-ce+square,iterations=5", "joint"]
)
def test_answers_do_not_depend_on_memory(narrow, attack, how):
    asked = task(attack)
    narrow(10**9, **how)
    whole = answer(asked)
    narrow(7, **how)
    pieces = answer(asked)
    assert (whole.rows, pieces.rows) == (0, 6)
    one, other = (next(iter(a.results.values())) for a in (whole, pieces))
    assert other.rows == {"crafting": 6, "judging": 6}
    assert "rows" not in one.as_plain()
    ignoring = {"rows": {}, "seconds": 0}
    assert replace(one, **ignoring) == replace(other, **ignoring)
    torch.testing.assert_close(whole.images, pieces.images)


def test_fast_copies_pass_in_pieces_too(narrow):
    asked = task("autoattack:attacks=apgd-t,iterations=5")
    copies = CopySetting({asked.source.digest: ITSELF}, 1)
    whole = answer(asked, copies)
    narrow(7)
    pieces = answer(asked, copies)
    assert pieces.rows == 6
    torch.testing.assert_close(whole.images, pieces.images)


def test_clean_images_are_judged_in_pieces(narrow):
    asked = clean_task(task("pgd").source)
    whole = answer(asked)
    narrow(7)
    pieces = answer(asked)
    one, other = (next(iter(a.results.values())) for a in (whole, pieces))
    assert (one.bits, one.flags) == (other.bits, other.flags)
    assert other.rows == {"judging": 6}
    assert whole.right_under.keys() == pieces.right_under.keys()
    assert ShardResult.of(other.as_plain()) == other


def test_what_does_not_fit_is_a_fault(narrow):
    asked = task("pgd:steps=2")
    narrow(0)
    with pytest.raises(ModelFault, match="narrow, pgd:steps=2: there is no memory for even one image"):
        answer(asked)
    with pytest.raises(ModelFault, match="narrow: there is no memory for even one image"):
        answer(clean_task(asked.source))


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, line):
        self.notes.append(line)


def test_the_next_shards_begin_with_what_sufficed(narrow, tmp_path, monkeypatch):
    narrow(7)
    asked, notes, begun = task("pgd:steps=2"), Notes(), []
    real = shard_module.PassCounter
    monkeypatch.setattr(shard_module, "PassCounter", lambda *rows: begun.extend(rows) or real(*rows))
    setting = EvalSetting(load("digits:test").first(24), 12, torch.device("cpu"))
    assert run_tasks([asked], setting, Store(tmp_path), notes) == []
    assert begun == [12, 6, 6]
    assert notes.notes == [
        "narrow, pgd:steps=2: 6 of 12 images pass at once, for there is no memory for more"
    ]
    (key,) = Store(tmp_path).keys()
    assert [one.rows["crafting"] for one in Store(tmp_path).read(key).shards] == [6, 6]


def test_only_want_of_memory_is_met_with_fewer_images():
    tried = []

    def call(rows):
        tried.append(rows)
        raise RuntimeError("sizes do not match") if rows < 5 else MemoryError

    with pytest.raises(RuntimeError, match="sizes"):
        halving(call, 9)
    assert tried == [9, 5, 3]
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_gradients_of_pieces_are_those_of_all():
    net, x = Narrow(), torch.rand(5, 1, 8, 8, requires_grad=True)
    grads = [torch.autograd.grad(passed(net, x, rows).square().sum(), x)[0] for rows in (5, 2)]
    torch.testing.assert_close(*grads)


def test_a_network_that_memory_does_not_suffice_for_is_a_fault(cli, monkeypatch, tmp_path):
    def out_of_memory(*arguments, **more):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("rstbench.study.build.train", out_of_memory)
    few = ["--network", "conv2", "--width", "0.1", "--data", "digits:train:128", "--epochs", "1", "--quiet"]
    done = cli("train", *few, "--out", tmp_path / "c")
    assert done.returncode == 1
    assert "rstbench: conv2: no memory to learn it, try a smaller batch: RuntimeError" in done.stderr
    assert len(done.stderr.splitlines()) == 1
