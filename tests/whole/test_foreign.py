"""Another package's model, data set and attack, through a real installation and entry points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

FOREIGN = Path(__file__).parent / "foreign"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("foreign")
    source = folder / "source"
    shutil.copytree(FOREIGN, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder / "site"), str(source)], check=True, capture_output=True)
    root = Path(__file__).parent.parent.parent
    return {"PYTHONPATH": os.pathsep.join([str(root), str(folder / "site")])}


def test_its_names_are_listed_with_their_package(cli, installed):
    done = cli("list", env=installed)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for line in ("models\tacme\tforeign-robust-things", "data\tstripes\tforeign-robust-things"):
        assert line in lines
    assert "attacks\tgrey\tforeign-robust-things" in lines
    assert "attacks\tpgd\trstbench" in lines


def test_its_things_take_part(cli, installed, tmp_path):
    arguments = ["evaluate", "acme:", "--data", "stripes:12", "--threat", "Linf:0.2", "--quiet"]
    done = cli(
        *arguments, "--attack", "grey", "--attack", "grey:strength=0.5", "--attack", "pgd", env=installed
    )
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv")
    assert frame.loc[0, "model"] == "acme:"
    assert frame.loc[0, "data"] == "stripes:test"
    assert frame.loc[0, "clean"] == 1.0
    # Grey stripes are stripes still, by whatever contrast is left.
    assert frame.loc[0, "grey"] == frame.loc[0, "grey:strength=0.5"] == 1.0
    assert frame.loc[0, "images"] == 12


def test_an_attack_that_cheats_is_a_missing_answer(cli, installed, tmp_path):
    arguments = ["evaluate", "acme:", "--data", "stripes", "--threat", "Linf:0.1", "--quiet"]
    done = cli(*arguments, "--attack", "cheat", "--attack", "pgd", env=installed)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "beyond Linf:0.1" in done.stderr
    frame = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv")
    assert frame[["cheat", "worst", "rank"]].isna().all(axis=None)
    assert frame["pgd"].notna().all()


def test_a_wrong_number_of_classes_leaves_the_rest(cli, installed, tmp_path):
    arguments = ["evaluate", "acme:wide", "acme:", "--data", "stripes", "--threat", "Linf:0.1", "--quiet"]
    done = cli(*arguments, "--attack", "pgd", env=installed)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["rstbench: acme:wide has 7 classes, the data 2"]
    table = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv")
    assert list(table["model"]) == ["acme:", "acme:wide"]
    assert list(table["clean"].notna()) == [True, False]
