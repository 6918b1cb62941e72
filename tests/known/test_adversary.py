"""Inner adversaries on a linear model, where their images are known; and the epochs that carry on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator, nn
from torch.nn.functional import cross_entropy, kl_div
from torch.nn.utils import parametrize

from rstbench.errors import BadFile, BadRequest
from rstbench.threat import Threat
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.tickets.ticket import Ticket
from rstbench.training.adversaries import ADVERSARIES, Batch, Free, parse_adversary
from rstbench.training.recipe import make_recipe, recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 2, "batch": 32}
ROOT = Path(__file__).parent.parent.parent


def linear(classes=2):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def batch(net, **more):
    x = 0.4 + 0.2 * torch.rand(8, 1, 3, 4, generator=Generator().manual_seed(0))
    y = torch.arange(8) % 2
    return Batch(net, x, y, Threat.parse("Linf:0.05"), Generator().manual_seed(0), cross_entropy, **more)


@pytest.mark.parametrize("text", ["fgsm", "pgd:steps=20", "fgsm-rs:step=2"])
def test_they_reach_the_worst_corner_of_a_linear_model(text):
    net, b = linear(), batch(linear())
    w = net[1].weight.detach()
    corner = b.x + 0.05 * (w[1 - b.y] - w[b.y]).sign().view_as(b.x)
    (loss,) = parse_adversary(text).losses(b)
    assert torch.allclose(loss, cross_entropy(net(corner), b.y), atol=1e-5)


def test_none_is_the_clean_loss():
    b = batch(linear())
    (loss,) = parse_adversary("none").losses(b)
    assert loss.equal(cross_entropy(b.net(b.x), b.y))


def test_trades_is_clean_loss_plus_divergence():
    b = batch(linear())
    (loss,) = parse_adversary("trades:beta=3,steps=20").losses(b)
    clean = b.net(b.x)
    rest = (loss - cross_entropy(clean, b.y)).detach() / 3
    random = b.threat.sample(b.x, Generator().manual_seed(5))
    there = kl_div(b.net(random).log_softmax(1), clean.softmax(1), reduction="batchmean").detach()
    assert rest > there > 0


def test_free_replays_and_keeps_its_noise():
    net, free = linear(), Free(m=3)
    b = batch(net)
    losses = list(free.losses(b))
    assert len(losses) == 3
    # The first replay is clean, the next ones stand in the worst corner.
    w = net[1].weight.detach()
    corner = 0.05 * (w[1 - b.y] - w[b.y]).sign().view_as(b.x)
    assert losses[0].equal(cross_entropy(net(b.x), b.y))
    assert torch.allclose(losses[1], cross_entropy(net(b.x + corner), b.y))
    assert torch.allclose(free.noise, corner, atol=1e-6)
    (first, *_) = free.losses(b)
    assert torch.allclose(first, losses[1])


def test_free_steps_the_scores_at_every_replay(spec, weights, split):
    recipe = recipe_for({**SMALL, "adversary": "free:m=4", "epochs": 1})
    once, _ = edge_popup(Search(spec, weights, "0.3", split, replace(recipe, adversary="free:m=1")))
    often, _ = edge_popup(Search(spec, weights, "0.3", split, recipe))
    assert once.digest != often.digest


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("eval", False)])
def test_batch_norm_in_attack_passes(mode, moves):
    net = nn.Sequential(nn.BatchNorm2d(1, affine=False), *linear())
    after_one = nn.Sequential(nn.BatchNorm2d(1, affine=False))
    (loss,) = parse_adversary("fgsm").losses(batch(net, attack_bn=mode))
    assert net.training
    assert loss.requires_grad
    # Statistics are updated by the attack's pass too, or by the last one alone.
    assert int(net[0].num_batches_tracked) == (2 if moves else 1)
    assert after_one.training


@pytest.mark.parametrize("name", ADVERSARIES)
def test_masks_are_computed_once_a_step_and_weights_get_no_gradient(name, spec, weights, split, monkeypatch):
    from rstbench.tickets.allocation import LayerBudget

    calls = []
    select = LayerBudget.select
    monkeypatch.setattr(
        LayerBudget, "select", lambda budget, scores: calls.append(budget) or select(budget, scores)
    )
    recipe = recipe_for({**SMALL, "adversary": name, "epochs": 1})
    edge_popup(Search(spec, weights, "0.3", split, recipe))
    steps = 4 * (4 if name == "free" else 1)  # batches of 32 among 128 images
    # Besides: put on, the start, the selection images, the ticket.
    assert len(calls) == len(weights) * (2 + steps + 1 + 1)


@pytest.mark.parametrize("text", ["pgd:steps=0", "free:m=0", "pgd:restarts=2", "free:noise=3", "cw"])
def test_wrong_adversaries(text):
    with pytest.raises(BadRequest):
        parse_adversary(text)


def test_named_recipes():
    paper = make_recipe("paper-cifar", {})
    assert (paper.epochs, paper.batch, paper.lr, paper.weight_decay) == (160, 256, 0.1, 5e-4)
    assert (paper.schedule, paper.adversary, paper.threat) == ("piecewise", "pgd:steps=7", "Linf:8/255")
    imagenet = make_recipe("paper-imagenet", {})
    assert (imagenet.epochs, imagenet.lr, imagenet.momentum) == (90, 0.256, 0.875)
    assert imagenet.weight_decay == pytest.approx(3.05e-5, rel=1e-2)
    assert [float(point) for point in imagenet.milestones()] == pytest.approx([1 / 3, 2 / 3])


def test_mixed_precision_and_channels_last_draw(spec, weights, split):
    recipe = recipe_for({**SMALL, "precision": "bf16", "channels_last": True})
    ticket, history = edge_popup(Search(spec, weights, "0.3", split, recipe))
    assert all(row.loss < 10 for row in history)
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in ticket.module().parameters())


@pytest.mark.parametrize("adversary", ["pgd:steps=2", "free:m=2"])
@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_after_an_epoch_it_ends_the_same(spec, weights, split, tmp_path, adversary, after):
    recipe = recipe_for({**SMALL, "epochs": 4, "adversary": adversary})
    whole, history = edge_popup(Search(spec, weights, "0.3", split, recipe))
    resume_file = tmp_path / "x.unfinished"

    class Stop(Exception):
        pass

    def stop(row):
        if row.epoch == after:
            raise Stop

    with pytest.raises(Stop):
        edge_popup(Search(spec, weights, "0.3", split, recipe, on_epoch=stop, resume_file=resume_file))
    assert resume_file.exists()
    rows = []
    again, history_again = edge_popup(
        Search(spec, weights, "0.3", split, recipe, on_epoch=rows.append, resume_file=resume_file)
    )
    assert again.digest == whole.digest
    assert history_again == history == rows
    for name, ticket in (("whole", whole), ("again", again)):
        ticket.save(tmp_path / name)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not resume_file.exists()


def test_unfinished_work_of_another_recipe_is_refused(spec, weights, split, tmp_path):
    resume_file = tmp_path / "x.unfinished"

    def stop(row):
        raise KeyboardInterrupt

    recipe = recipe_for(SMALL)
    with pytest.raises(KeyboardInterrupt):
        edge_popup(Search(spec, weights, "0.3", split, recipe, on_epoch=stop, resume_file=resume_file))
    with pytest.raises(BadFile, match="another recipe"):
        edge_popup(Search(spec, weights, "0.3", split, replace(recipe, seed=1), resume_file=resume_file))
    resume_file.write_bytes(resume_file.read_bytes()[:100])
    with pytest.raises(BadFile, match="damaged"):
        edge_popup(Search(spec, weights, "0.3", split, recipe, resume_file=resume_file))


def test_a_killed_drawing_continues_to_the_same_ticket(tmp_path):
    """SIGKILL between epochs of `draw`; the same command ends with the same file."""

    def command(out):
        text = (
            "draw --network conv2 --width 0.1 --data digits:train:256 --epochs 6 --batch 32 --remaining 0.3"
        )
        return [sys.executable, "-m", "rstbench", *text.split(), "--out", str(out), "--quiet"]

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(whole), env=environment, check=True, capture_output=True)
    process = subprocess.Popen(command(cut), env=environment, stdout=subprocess.DEVNULL)
    resume_file = cut / ".conv2-0.3.unfinished"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not resume_file.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert resume_file.exists()
    assert not (cut / "conv2-0.3.safetensors").exists()
    subprocess.run(command(cut), env=environment, check=True, capture_output=True)
    name = "conv2-0.3.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert (cut / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    assert not resume_file.exists()
    assert Ticket.load(cut / name)


def test_the_cache_ends_with_the_step(spec, weights, split):
    edge_popup(Search(spec, weights, "0.3", split, recipe_for({**SMALL, "epochs": 1})))
    assert parametrize._cache_enabled == 0
