"""The guides' commands and code, run in order as a reader would, one folder a guide."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDES = ["tutorial", "drawing", "attacks", "switch", "certificates"]
BLOCK = re.compile(r"(<!-- needs: [^>]+ -->\n)?```(\w+)\n(.*?)```", re.S)


def blocks(path):
    """(language, text) of every fenced block but those that say what they need."""
    return [(language, text) for needs, language, text in BLOCK.findall(path.read_text()) if not needs]


def files_in(path):
    """Blocks that begin with the name of a file, by that name."""
    named = [(re.match(r"# ([\w.-]+\.(?:py|toml))\n", text), text) for _, text in blocks(path)]
    return {match[1]: text for match, text in named if match}


def commands_in(path):
    lines = [line for language, text in blocks(path) if language == "console" for line in text.splitlines()]
    commands = [shlex.split(line[2:]) for line in lines if line.startswith("$ ")]
    assert all(words[:3] == ["python", "-m", "rstbench"] for words in commands), "others say what they need"
    return [words[3:] for words in commands]


@pytest.mark.parametrize("guide", GUIDES)
def test_its_commands_run(guide, cli, tmp_path):
    path = ROOT / "docs" / f"{guide}.md"
    for name, text in files_in(path).items():
        (tmp_path / name).write_text(text)
    commands = commands_in(path)
    assert commands
    for arguments in commands:
        done = cli(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    shown = re.findall(r"`((?:tickets|checkpoints|runs)/[\w./-]+)`", path.read_text())
    assert all((tmp_path / name).exists() for name in shown if "…" not in name), shown


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    """The package of CONTRIBUTING.md and docs/plugins.md, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("acme")
    source = folder / "source"
    source.mkdir()
    for path in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "plugins.md"):
        for name, text in files_in(path).items():
            assert len([line for line in text.splitlines() if line]) < 20 or name == "pyproject.toml"
            (source / name).write_text(text)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder / "site"), str(source)], check=True, capture_output=True)
    return folder / "site"


def test_the_plug_ins_of_the_guide_take_part(acme, cli, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(acme)
    listed, *others = commands_in(ROOT / "docs" / "plugins.md")
    assert "networks\ttiny\tacme-robust" in cli(*listed).stdout.splitlines()
    for arguments in others:
        done = cli(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    board = (tmp_path / "runs" / "acme" / "leaderboard.csv").read_text()
    assert "noise:tries=3" in board.splitlines()[0].replace('"', "")
    assert (tmp_path / "tiny.npz").exists()
