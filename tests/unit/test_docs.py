"""What the documentation names is there: files, functions, links, commands, versions and flags."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import rstbench
from rstbench.cli.arguments import make_parser
from rstbench.cli.commands import VERBS
from rstbench.flags import as_markdown

ROOT = Path(__file__).parent.parent.parent
DOCS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
DESIGN = (ROOT / "docs" / "design.md").read_text()


def defined(path):
    """Names that a module defines: functions, classes, constants, and `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{part.name}" for part in inner if isinstance(part, ast.FunctionDef)}
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            names |= {part.id for part in parts if isinstance(part, ast.Name)}
    return names


def named_in(text):
    """(file, names) of every code span such as `threat.py: NORMS, Threat`."""
    spans = re.findall(r"`([\w/.]+\.(?:py|csv|css|html|toml))(?:: ([^`]+))?`", text)
    return [(file, names.split(", ") if names else []) for file, names in spans]


def test_every_file_and_function_of_the_design_exists():
    missing = []
    for file, names in named_in(DESIGN):
        path = next((base / file for base in (ROOT / "rstbench", ROOT) if (base / file).is_file()), None)
        if path is None and file not in ("study.toml", "leaderboard.csv"):
            missing.append(file)
        elif names:
            missing += [f"{file}: {name}" for name in names if name not in defined(path)]
    assert not missing, missing


def test_the_design_tells_where_to_change_things():
    rows = DESIGN.partition("## Where do I change X")[2].split("\n")
    rows = [row for row in rows if row.startswith("|")][2:]
    assert len(rows) >= 34
    assert all(named_in(row) for row in rows)
    folders = {path.name for path in (ROOT / "rstbench").iterdir() if any(path.glob("*.py"))}
    layers = DESIGN.partition("## Folders are layers")[2].partition("\n## ")[0]
    assert all(f"`{name}/`" in layers for name in folders)


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if not target.startswith("http"):
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def commands(path):
    text = path.read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_is_well_formed(path):
    """Those too that need data or time, and are not run."""
    for command in commands(path):
        words = shlex.split(command)
        if words[:3] == ["python", "-m", "rstbench"]:
            make_parser(VERBS).parse_args(words[3:])
        else:
            assert words[0] in ("pip", "tox", "git", "PYTHONPATH=.", "ruff", "mypy", "pre-commit", "python")


def test_the_readme_is_short_and_says_how_to_install_and_test():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.split()) <= 900
    assert "$ pip install .\n" in readme
    assert "$ tox\n" in readme


def test_the_list_of_flags_is_that_of_the_registry():
    stated = re.search(
        r"<!-- flags -->\n(.*?)\n?<!-- /flags -->", (ROOT / "docs" / "attacks.md").read_text(), re.S
    )
    assert stated[1] == as_markdown()


def test_one_version_everywhere():
    version = rstbench.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## \[(\S+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest[1] == version
    assert f"\ndate-released: {newest[2]}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_lowest_versions_of_tox_are_those_that_are_declared():
    declared = dict(re.findall(r"^    (\w+)>=([\d.]+)$", (ROOT / "setup.cfg").read_text(), re.M))
    lowest = dict(re.findall(r"^    (\w+)==([\d.]+)$", (ROOT / "tox.ini").read_text(), re.M))
    assert len(lowest) >= 4
    assert all(version.startswith(declared[name]) for name, version in lowest.items() if name in declared)
