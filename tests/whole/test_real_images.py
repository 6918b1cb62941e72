"""Real images through the command line, and a checkpoint of others with known accuracies."""

from __future__ import annotations

import pandas as pd
import pytest

LINEAR = """
import torch
from torch import nn


def good():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear({pixels}, 10))
"""
LENET = """
import torch
from torch import nn


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.linear1, self.linear2 = nn.Linear(3136, 200), nn.Linear(200, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.linear2(self.linear1(x.flatten(1)).relu())


def net(path):
    model = LeNet()
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return model
"""


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_real_images(cli, tmp_path, data_root, name):
    pixels = {"mnist": 784, "cifar10": 3072}[name]
    (tmp_path / "real.py").write_text(LINEAR.format(pixels=pixels))
    done = cli("evaluate", "file:real.py:good", "--data", f"{name}:test:50", "--threat", "Linf:2/255",
               "--attack", "pgd:steps=5", "--data-root", data_root, "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv").iloc[0]
    assert (row["images"], row["data"]) == (50, f"{name}:test")
    assert row["worst"] <= row["clean"]


def test_the_external_checkpoint_reaches_its_known_accuracy(cli, tmp_path, data_root):
    """advertorch's LeNet, adversarially trained: 0.986 clean of 10,000, 0.907 at Linf 0.3 of 1,000."""
    checkpoint = data_root.parent / "models" / "mnist_lenet5_advtrained.pt"
    if not checkpoint.is_file():
        pytest.skip(f"no external checkpoint beside RSTBENCH_DATA: {checkpoint.name}")
    (tmp_path / "lenet.py").write_text(LENET)
    done = cli("evaluate", f"file:lenet.py:net[path={checkpoint}]", "--data", "mnist:test:200", "--quiet",
               "--threat", "Linf:0.3", "--attack", "pgd:steps=40", "--data-root", data_root)  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv").iloc[0]
    assert row["clean"] > 0.95
    assert 0.85 < row["worst"] < 0.97
