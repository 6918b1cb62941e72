"""One command ranks models of every kind on real CIFAR-10 images; wrong ones are told in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

GUIDE = (Path(__file__).parent.parent.parent / "docs" / "models.md").read_text()
MODELS = """
import torch
from torch import nn

class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of luck")

def linear(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

def sure():
    return nn.Sequential(linear(), nn.Softmax(1))

def large():
    return nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(3072, 10))

raises = Raises
"""


@pytest.fixture
def folder(tmp_path, data_root):
    """The guide's mine.py, the external checkpoint, and models of one's own."""
    found = re.search(r"```python\n# mine\.py\n(.*?)```", GUIDE, re.DOTALL)
    assert found
    text = found[1]
    assert len([line for line in text.splitlines() if line]) < 15
    checkpoint = data_root.parent / "models" / "cifar_cnn_a_adv.model"
    if not checkpoint.is_file():
        pytest.skip(f"no external checkpoint beside RSTBENCH_DATA: {checkpoint.name}")
    (tmp_path / "mine.py").write_text(text.replace("cifar_cnn_a_adv.model", str(checkpoint)))
    (tmp_path / "other.py").write_text(MODELS)
    return tmp_path


COMMON = ["--data", "cifar10:test:4", "--threat", "Linf:8/255", "--attack", "pgd:steps=2", "--quiet"]


def test_every_kind_of_model_in_one_command(cli, folder, data_root):
    drawn = cli("draw", "--network", "conv2", "--width", "0.1", "--data", "cifar10:train:100", "--quiet",
                "--epochs", "1", "--batch", "50", "--remaining", "0.2", "--out", "t",
                "--data-root", data_root)  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    models = ["bundled:autoattack-resnet18", "torchvision:resnet18", "file:other.py:linear",
              "file:mine.py:net", "ticket:t/conv2-0.2.safetensors"]  # fmt: skip
    done = cli("evaluate", *models, *COMMON, "--data-root", data_root, "--crafting", "exact")
    assert (done.returncode, done.stderr) == (0, "")
    board = pd.read_csv(folder / "runs" / "adhoc" / "leaderboard.csv").set_index("model")
    assert set(board.index) == {*models[:1], "torchvision:resnet18[seed=0]", *models[2:4], "conv2-0.2"}
    assert board.loc["bundled:autoattack-resnet18", "clean"] == 1
    assert board.loc["file:mine.py:net", "clean"] >= 0.4
    assert board["worst"].notna().all()


def test_wrong_models_leave_the_right_ones(cli, folder, data_root):
    wrong = ["file:other.py:raises", "file:other.py:large", "file:other.py:linear[classes=7]"]
    models = ["file:mine.py:net", "file:other.py:sure"]
    done = cli("evaluate", *wrong, *models, *COMMON, "--data-root", data_root)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for text, reference in zip(("out of luck", "shape", "7 classes, the data 10"), wrong, strict=True):
        assert any(text in line and reference in line for line in lines), (text, lines)
    board = pd.read_csv(folder / "runs" / "adhoc" / "leaderboard.csv").set_index("model")
    assert set(board.index) == {*models, *wrong}
    assert set(board.index[board["clean"].isna()]) == set(wrong)
    assert "probabilities-not-logits" in board.loc["file:other.py:sure", "flags"]


class Harm:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gone.pt", "arch=resnet18", "no file gone.pt"),
        ("cut.pt", "arch=resnet18", "cut.pt is damaged: an archive without its end"),
        ("harm.pt", "arch=resnet18", "loading it would run code; save its state dict alone"),
        ("page.pt", "arch=resnet18", "page.pt is a web page; download the file itself"),
        (
            "net.pt",
            "arch=resnet18",
            "lacks conv1.weight, bn1.running_mean, bn1.running_var, …; also has",
        ),
        ("net.pt", "arch=resnot18", "did you mean 'resnet18'"),
    ],
)
def test_files_that_are_refused(cli, folder, data_root, name, options, message):
    torch.save(nn.Linear(3, 3).state_dict(), folder / "net.pt")
    (folder / "cut.pt").write_bytes((folder / "net.pt").read_bytes()[:-300])
    torch.save({"weight": Harm()}, folder / "harm.pt")
    (folder / "page.pt").write_text("<!DOCTYPE html><title>Sign in</title>")
    done = cli("evaluate", f"weights:{name}[{options}]", *COMMON, "--data-root", data_root)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "code was run" not in done.stdout
    assert not (folder / "runs").exists()
