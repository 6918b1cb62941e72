"""What was assumed of data, from the command line to the table: one line, and the right figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from rstbench.tickets.ticket import Ticket

QUICK = ["--threat", "Linf:2/255", "--attack", "pgd:steps=2"]
DRAW = ["--network", "conv2", "--width", "0.1", "--epochs", "1", "--remaining", "0.5", "--adversary", "none"]
NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
"""


@pytest.fixture(scope="module")
def taught():
    """Images, channels first, and the labels that the network of NET gives them: it is right on all."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    x = (np.random.RandomState(0).rand(100, 3, 4, 4).repeat(4, 2).repeat(4, 3) * 255).astype(np.uint8)
    with torch.no_grad():
        return x, net(torch.tensor(x).float() / 255).argmax(1).numpy()


def board(folder):
    return pd.read_csv(folder / "leaderboard.csv")


def test_channels_last_have_the_figures_of_channels_first(cli, tmp_path, taught):
    x, y = taught
    (tmp_path / "mine.py").write_text(NET)
    last = x.transpose(0, 2, 3, 1).astype(np.int64)
    np.savez(tmp_path / "first.npz", x=x, y=y)
    np.savez(tmp_path / "last.npz", x=last, y=y[:, None])
    plain = cli("evaluate", "file:mine.py:net", "--data", "npz:first.npz", *QUICK, "--out", "a", "--quiet")
    assert (plain.returncode, plain.stderr) == (0, "")
    moved = cli("evaluate", "file:mine.py:net", "--data", "npz:last.npz", *QUICK, "--out", "b", "--quiet")
    assert moved.stderr.splitlines() == [
        "npz:last.npz:test: 100 images 3x16x16, pixels 0 to 0.996, at least 10 classes (labels 0 to 9); "
        "images (n, 16, 16, 3) transposed to (n, c, h, w); int64 pixels 0 to 254 read as bytes; "
        "labels (n, 1) read as (n,)"
    ]
    assert board(tmp_path / "a").loc[0, "clean"] == 1
    columns = ["clean", "pgd:steps=2", "worst"]
    assert board(tmp_path / "a")[columns].equals(board(tmp_path / "b")[columns])


def test_a_ticket_drawn_on_channels_last_has_their_channels(cli, tmp_path, taught):
    x, y = taught
    last = x.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "last.npz", x_train=last, y_train=y, x_test=last, y_test=y)
    done = cli("draw", *DRAW, "--data", "npz:last.npz", "--batch", "32", "--out", "t")
    assert done.returncode == 0, done.stderr
    line = done.stderr.splitlines()[0]
    assert line.startswith("npz:last.npz:train: 100 images 3x16x16")
    assert line.endswith("transposed to (n, c, h, w)")
    assert Ticket.load(tmp_path / "t" / "conv2-0.5.safetensors").spec.shape == (3, 16, 16)
    x_odd = x[:, :, :, :3]  # (n, 3, 16, 3)
    np.savez(tmp_path / "odd.npz", x_train=x_odd, y_train=y)
    refused = cli("draw", *DRAW, "--data", "npz:odd.npz", "--out", "u")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "may be (n, c, h, w) or (n, h, w, c)" in refused.stderr


def test_grey_folders_suit_grey_networks(cli, tmp_path, ticket_files):
    """The digits as files, where an editor has left a folder: as good as the digits themselves."""
    from rstbench.data import load

    x, y = load("digits:test:100").at(slice(None))
    for place, (image, label) in enumerate(zip(x, y.tolist(), strict=True)):
        path = tmp_path / "tree" / str(label) / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0].numpy() * 65535).round().astype(np.uint16)).save(path)
    (tmp_path / "tree" / ".ipynb_checkpoints").mkdir()
    shown = ["evaluate", f"ticket:{ticket_files[0]}", *QUICK]
    done = cli(*shown, "--data", "imagefolder:tree", "--out", "a")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == (
        "imagefolder:tree:test: 100 images 1x8x8, pixels 0 to 1, 10 classes; grey files kept grey; 16 bits "
        "divided by 65535: 100 of 100 files; skipped 1 hidden folder (.ipynb_checkpoints)"
    )
    real = cli(*shown, "--data", "digits:test:100", "--out", "b")
    assert real.stderr.splitlines()[0] == "digits:test: 100 images 1x8x8, pixels 0 to 1, 10 classes"
    assert board(tmp_path / "a").loc[0, "clean"] == board(tmp_path / "b").loc[0, "clean"]


def test_transfer_tells_it_too(cli, ticket_files):
    models = [f"ticket:{path}" for path in ticket_files]
    done = cli("transfer", *models, "--attack", "pgd:steps=2", "--data", "digits:test:20")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].startswith("digits:test: 20 images 1x8x8")


def test_a_study_tells_of_each_data_set_once(cli, tmp_path):
    (tmp_path / "s.toml").write_text(
        'data = "digits:test"\nthreats = ["Linf:0.1"]\nattacks = ["pgd:steps=2"]\nimages = 20\n'
        '[[draw]]\nnetwork = "conv2"\nwidth = 0.1\nremaining = [0.3]\nepochs = 1\n'
        'data = "digits:train:128"\nselect = "test"\nadversary = "none"\n'
    )
    done = cli("evaluate", "s.toml", "--out", "o")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if " images 1x8x8" in line]
    assert [line.partition(" images")[0] for line in lines] == [
        "digits:test: 20",
        "digits:train: 128",
        "digits:test: 450",
    ]
