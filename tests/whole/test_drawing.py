"""Settings of a drawing that meet each other: what must hold together, and what must not be asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rstbench
from rstbench.data import download, load
from rstbench.errors import BadRequest
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.references import DataReference
from rstbench.tickets.checkpoint import train
from rstbench.tickets.init import random_weights
from rstbench.tickets.methods.edge_popup import edge_popup
from rstbench.tickets.methods.search import Search
from rstbench.tickets.ticket import Ticket
from rstbench.training.epochs import batches
from rstbench.training.recipe import recipe_for

ROOT = Path(__file__).parent.parent.parent
SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 1, "batch": 32}
DRAW = [
    "draw",
    "--network",
    "conv2",
    "--width",
    "0.1",
    "--data",
    "digits:train:128",
    "--epochs",
    "1",
    "--batch",
    "32",
]


def search(spec, weights, split, remaining="0.2", **settings):
    return Search(spec, weights, remaining, split, recipe_for({**SMALL, **settings}))


@pytest.mark.parametrize("pattern", ["element", "row", "kernel"])
def test_global_shares_of_any_pattern_come_back_from_their_file(spec, weights, split, tmp_path, pattern):
    one = search(spec, weights, split, pattern=pattern, allocation="global", lr=1.0, adversary="fgsm")
    ticket, _ = edge_popup(one)
    ticket.save(tmp_path / "t.safetensors")
    assert Ticket.load(tmp_path / "t.safetensors").digest == ticket.digest


@pytest.mark.parametrize("settings", [{}, {"dense": "last"}, {"allocation": "p:0.5"}])
def test_scaled_weights_are_scaled_by_what_their_layer_keeps(spec, weights, split, settings):
    ticket, _ = edge_popup(search(spec, weights, split, scale=True, **settings))
    state = ticket.module().state_dict()
    for name, mask in ticket.masks.items():
        fraction = 0.2 if not settings.get("allocation") and not mask.all() else float(mask.float().mean())
        assert torch.allclose(state[name][mask], weights[name][mask] / fraction**0.5, rtol=1e-5)
    recipe = recipe_for({**SMALL, "weights": "inherit", "lr": 1e-12, "weight_decay": 0.0})
    inherited, _ = train(spec, split, recipe, ticket=ticket)
    assert all(torch.allclose(inherited.state[name], state[name], atol=1e-6) for name in ticket.masks)
    fresh, _ = train(spec, split, replace(recipe, weights="reinit"), ticket=ticket)
    for name, mask in ticket.masks.items():
        assert torch.allclose(fresh.state[name][mask].abs(), state[name][mask].abs(), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allocation": "p:nan"}, "allocation p reads"),
        ({"allocation": "p:inf"}, "allocation p reads"),
        ({"allocation": "p:-500"}, "from 0"),
        ({"allocation": "p:300"}, "to 1"),
        ({"allocation": "global", "floor": True}, "floor needs a ratio for each layer"),
        ({"allocation": "global", "scale": True}, "scale needs a ratio for each layer"),
        ({"pattern": "filter", "floor": True, "dense": "last"}, "drops whole outputs"),
        ({"pattern": "1:3"}, "which no decimal writes"),
        ({"momentum": 7.0}, "momentum must be below 1"),
    ],
)
def test_wrong_combinations(spec, weights, split, settings, message):
    with pytest.raises(BadRequest, match=message):
        assert search(spec, weights, split, **settings).budgets


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("swin_t", "googlenet")]


@pytest.mark.parametrize("name", ["squeezenet1_1", *LARGE])
def test_library_networks_follow_from_their_seed(split, name):
    """Whatever the global generator was used for before, and with dropout."""
    spec = NetworkSpec(f"torchvision:{name}", (3, 64, 64), 10)
    nets = []
    for before in (1, 2):
        torch.manual_seed(before)
        nets.append(build(spec))
    states, drawn = [net.state_dict() for net in nets], prunable(nets[0])
    assert all(states[0][key].equal(states[1][key]) for key in states[0] if key not in drawn)
    if name == "swin_t":
        return
    x = torch.rand(8, 3, 64, 64)
    images = replace(split.train, pixels=x, labels=torch.arange(8) % 10)
    small = replace(split, train=images, select=images)
    digests = []
    for before in (1, 2):
        torch.manual_seed(before)
        recipe = recipe_for({**SMALL, "network": spec.name, "width": 1.0, "adversary": "fgsm", "batch": 4})
        weights = random_weights(drawn, recipe.init, 0)
        digests.append(edge_popup(Search(spec, weights, "0.5", small, recipe))[0].digest)
    assert digests[0] == digests[1]


def test_a_loss_that_explodes_leaves_nothing_behind(cli, tmp_path):
    bad = [*DRAW, "--remaining", "0.1,0.2", "--norm", "none", "--quiet", "--out", "t"]
    done = cli(*bad, "--lr", "1e30", "--epochs", "3")
    assert done.returncode == 1
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["conv2-0.1", "conv2-0.2"]
    assert not list((tmp_path / "t").glob(".*unfinished"))
    done = cli(*bad, "--lr", "0.01")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("data", ["digits:train:1", "digits:train:2"])
def test_too_few_images_are_one_line(cli, data):
    done = cli(*DRAW, "--data", data, "--batch", "8", "--remaining", "0.5", "--out", "t")
    assert done.returncode == 2
    assert "are too few for batches of 8" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_download_takes_both_splits_and_leaves_what_is_there(tmp_path, monkeypatch):
    from torchvision import datasets

    asked = []
    monkeypatch.setattr(datasets, "SVHN", lambda root, download, split: asked.append(split))
    download([DataReference("svhn")], tmp_path)
    assert asked == ["train", "test"]
    monkeypatch.setattr("rstbench.data.fetch.load", lambda text, root: None)  # all can be read
    download([DataReference("svhn", split="train")], tmp_path)
    assert asked == ["train", "test"]


def test_a_killed_worker_is_one_line(tmp_path):
    (tmp_path / "s.toml").write_text(
        'data = "digits:test"\nthreats = ["Linf:0.1"]\nattacks = ["pgd:steps=2"]\nimages = 20\n'
        '[[draw]]\nname = "a"\nnetwork = "conv2"\nwidth = 0.25\nremaining = [0.1, 0.2]\n'
    )
    command = [
        sys.executable,
        "-m",
        "rstbench",
        "evaluate",
        "s.toml",
        "--out",
        "out",
        "--workers",
        "2",
        "--quiet",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/tickets/.*unfinished")) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True
    )
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "a worker process was killed" in errors


def test_the_seed_of_the_source_is_taken(cli, tmp_path):
    """The images held out for selection are then the same: none that the source has learnt from."""
    x, y = np.random.RandomState(0).rand(100, 1, 8, 8).astype("float32"), np.arange(100) % 10
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    own = ["--network", "conv2", "--width", "0.1", "--data", "npz:d.npz", "--threat", "Linf:0.1"]
    own += ["--seed", "7"]
    quick = ["--epochs", "1", "--batch", "32", "--quiet", "--out"]
    assert cli("draw", *own, "--remaining", "0.5", *quick, "t").returncode == 0
    assert cli("train", *own, *quick, "c").returncode == 0
    tuned = cli("train", "--from", "t/conv2-0.5.safetensors", *quick, "u")
    assert tuned.returncode == 0, tuned.stderr
    again = ["--from", "checkpoint:c/conv2.safetensors", "--data", "npz:d.npz", "--threat", "Linf:0.1"]
    assert cli("draw", *again, "--remaining", "0.5", *quick, "v").returncode == 0
    from rstbench.tickets.checkpoint import Checkpoint

    assert Checkpoint.load(tmp_path / "u" / "conv2-0.5-inherit.safetensors").recipe.seed == 7
    assert Ticket.load(tmp_path / "v" / "conv2-0.5.safetensors").recipe.seed == 7


def test_normalisation_is_part_of_what_is_drawn(tmp_path):
    """The layer is there while the scores are learnt, has nothing to choose, and goes along."""
    plain = rstbench.draw("0.3", **SMALL)
    ticket = rstbench.draw("0.3", **SMALL, normalize="0.3/0.4")
    assert ticket.total_weights == plain.total_weights
    assert ticket.digest != plain.digest
    ticket.save(tmp_path / "n.safetensors")
    net = Ticket.load(tmp_path / "n.safetensors").module()
    x = torch.rand(4, 1, 8, 8)
    assert net(x).equal(net[1]((x - 0.3) / 0.4))
    before = {name: buffer.clone() for name, buffer in net[0].named_buffers()}
    net.train()(x)
    assert all(before[name].equal(buffer) for name, buffer in net[0].named_buffers())
    with pytest.raises(BadRequest, match="is for 3 channels, images have 1"):
        rstbench.draw("0.3", **SMALL, normalize="cifar10")


def test_augmented_images_stay_in_their_memory_order():
    """Channels-last images at odd widths crash torch 2.15's CPU kernels, and are not what was asked."""
    color = load("digits:train:64")
    color = replace(color, pixels=color.pixels.expand(-1, 3, -1, -1).contiguous())
    recipe = recipe_for({**SMALL, "augment": "crop-flip"})
    for x, _ in batches(color, recipe, torch.Generator().manual_seed(0)):
        assert x.is_contiguous()
        assert x.shape == (32, 3, 8, 8)


def test_one_network_is_made_whatever_the_workers(cli, tmp_path):
    made = ["draw", "--network", "conv2", "--width", "0.1", "--data", "digits:train:128", "--epochs", "1"]
    done = cli(*made, "--batch", "32", "--remaining", "0.3", "--workers", "2", "--quiet", "--out", "t")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "t" / "conv2-0.3.safetensors").exists()
