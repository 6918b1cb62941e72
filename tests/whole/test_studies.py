"""Studies that ship and need a GPU: tried for two steps; and models that the environment names."""

from __future__ import annotations

import tomllib

import numpy as np
import pandas as pd
import pytest

from rstbench.cli.commands import main
from rstbench.study.jobs import jobs_of
from rstbench.study.reading import SHIPPED, parse_study, read_study

LARGE = ("cifar10-resnet18", "cifar10-wrn34", "cifar100-resnet18", "imagenet-resnet50", "cifar10-small")
TINY = {"width": 0.05, "epochs": 1, "batch": 16}


def as_toml(plain):
    """A study in TOML, which has no writer in the standard library."""

    def value(thing):
        if isinstance(thing, dict):
            return "{" + ", ".join(f"{key} = {value(item)}" for key, item in thing.items()) + "}"
        if isinstance(thing, list):
            return "[" + ", ".join(map(value, thing)) + "]"
        return str(thing).lower() if isinstance(thing, bool) else repr(thing)

    return "\n".join(f"{key} = {value(thing)}" for key, thing in plain.items())


def two_steps(name, folder):
    """The study on random images of its shape, with networks of a twentieth of the width, for two steps."""
    plain = tomllib.loads((SHIPPED / f"{name}.toml").read_text())
    classes = 100 if "100" in name else 10
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 8)):
        labels = np.resize(np.arange(classes), count)
        np.savez(folder / f"{split}.npz", x=rng.random((count, 3, 32, 32), dtype=np.float32), y=labels)
    plain["common"] |= {**TINY, "data": f"npz:{folder / 'train.npz'}"}
    plain |= {"data": f"npz:{folder / 'test.npz'}", "attacks": ["pgd:steps=1"], "images": 8, "seeds": [0]}
    plain["threats"] = plain["threats"][:1]
    plain.pop("model", None)
    if plain["common"]["network"].startswith("torchvision:"):
        del plain["common"]["width"]
    (folder / "study.toml").write_text(as_toml(plain))
    return read_study(str(folder / "study.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_two_steps_of_every_large_study(name, tmp_path):
    study = two_steps(name, tmp_path)
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "study.toml"), "--out", str(out), "--device", "cpu"]) == 0
    board = pd.read_csv(out / "leaderboard.csv")
    assert board["worst"].notna().all()
    switches = int(study.switch) * len(study.switch_weights)
    assert len(board) == len(jobs_of(study, 0, out)) + switches


@pytest.mark.parametrize("name", LARGE)
def test_large_studies_name_what_they_make(name, tmp_path):
    study = read_study(name)
    names = [job.name for job in jobs_of(study, 0, tmp_path)]
    assert {"rst-0.05", "rst-0.4"} <= set(names)
    assert any(job.startswith("dense") for job in names)


def test_a_model_of_the_environment_is_left_out_where_it_is_not_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "study.toml").write_text(
        'data = "digits:test"\nthreats = ["Linf:0.1"]\nattacks = ["pgd:steps=1"]\nimages = 10\n'
        '[[model]]\nname = "mine"\nref = "file:net.py:net"\n[[model]]\nname = "yours"\nenv = "MY_MODEL"\n'
    )
    monkeypatch.chdir(tmp_path)
    run = ["evaluate", "study.toml", "--out", "out", "--device", "cpu", "--batch-size", "10"]
    monkeypatch.delenv("MY_MODEL", raising=False)
    assert main(run) == 0
    assert "yours: left out, for $MY_MODEL names no model" in capsys.readouterr().err
    assert list(pd.read_csv("out/leaderboard.csv")["model"]) == ["mine"]
    (tmp_path / "other.py").write_text((tmp_path / "net.py").read_text())
    monkeypatch.setenv("MY_MODEL", "file:other.py:net")
    assert main(run) == 0
    assert set(pd.read_csv("out/leaderboard.csv")["model"]) == {"mine", "yours"}


def test_a_model_has_a_reference_or_a_variable():
    plain = {"name": "s", "data": "digits:test", "threats": ["Linf:0.1"]}
    both = plain | {"model": [{"ref": "file:net.py:net", "env": "MY_MODEL"}]}
    with pytest.raises(Exception, match="not both"):
        parse_study(both, "s")
