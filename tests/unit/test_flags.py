"""The registry of flags: nothing raises, explains or documents a flag that is not in it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from rstbench import flags
from rstbench.errors import BadRequest
from rstbench.flags import BUILTIN_FLAGS, Flag, as_markdown, doubts_autoattack, meaning_of, register_flag

ROOT = Path(__file__).parent.parent.parent
NAMES = {flag.name for flag in BUILTIN_FLAGS}
SETS = ("flags", "raised")  # what variables are called that hold the names of flags
POSITION = {"Crafted": 2, "Verdict": 1, "ModelInfo": 7, "ShardResult": 3}  # of `flags` among the arguments


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(flags, "_REGISTRY", dict(flags._REGISTRY))


def raised_in(code):
    """Strings that the code gives out as flags, where constants of the registry should stand."""
    expressions = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.keyword) and node.arg == "flags":
            expressions.append(node.value)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            expressions += node.args[POSITION.get(name, 99) :][:1]
            if name in ("add", "update") and getattr(getattr(node.func, "value", None), "id", "") in SETS:
                expressions += node.args
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") in SETS for t in node.targets):
            expressions.append(node.value)
        if isinstance(node, ast.FunctionDef) and "flags" in node.name:
            expressions += [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return)]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            expressions += [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "flags"]
    constants = (inner for node in expressions if node for inner in ast.walk(node))
    texts = {node.value for node in constants if isinstance(node, ast.Constant) and type(node.value) is str}
    return {text for text in texts if re.fullmatch("[a-z][a-z-]+", text)} - {"flags", "text"}


def sources():
    return [path for path in (ROOT / "rstbench").rglob("*.py") if path.name != "flags.py"]


@pytest.mark.parametrize(
    "code",
    [
        "Crafted(x, {}, ('made-up',) if zero else ())",
        "ModelInfo(name, 'external', flags=('made-up',))",
        "flags = ('made-up',) if wanted != 3 else ()",
        "raised.add('made-up')",
        "raised = set()\nraised.update(('made-up',))",
        "def _flags(fit):\n    return ('made-up',)",
        "{'model': name, 'flags': 'made-up'}",
    ],
)
def test_a_flag_that_is_only_a_text_is_seen(code):
    assert raised_in(code) == {"made-up"}


def test_our_own_code_raises_flags_of_the_registry_only():
    assert {path.name: found for path in sources() if (found := raised_in(path.read_text()))} == {}


def test_the_name_of_a_flag_is_written_once():
    """No other module holds the name of a flag as a text of its own."""
    for path in sources():
        texts = [
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        ]
        assert not NAMES & {text for text in texts if isinstance(text, str)}, path


def test_every_flag_is_raised_somewhere():
    trees = [ast.parse(path.read_text()) for path in sources()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {getattr(node, "id", getattr(node, "attr", "")) for node in nodes}
    constants = {name for name, value in vars(flags).items() if isinstance(value, Flag)}
    assert constants <= used
    assert {getattr(flags, name).name for name in constants} == NAMES


def test_the_documentation_lists_every_flag():
    pages = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    tables = [
        t for page in pages for t in re.findall("<!-- flags -->\n(.*?)\n<!-- /flags -->", page, re.DOTALL)
    ]
    assert tables
    assert set(tables) == {as_markdown()}


def test_a_plugin_registers_its_own(registry):
    mine = Flag("mine", "Mine.", doubts_autoattack=True)
    assert register_flag(mine) is mine
    assert register_flag(Flag("mine", "Mine.", True)) == mine
    assert (meaning_of("mine"), doubts_autoattack("mine")) == ("Mine.", True)
    with pytest.raises(BadRequest, match="'mine' is registered already"):
        register_flag(Flag("mine", "Another."))
    with pytest.raises(BadRequest, match="one word"):
        register_flag(Flag("two words", ""))
    # Tables of the documentation do not depend on what is installed.
    assert "`mine`" not in as_markdown()


def test_an_unknown_flag_is_told_as_one(registry):
    assert meaning_of("of-somebody-else") == flags.UNKNOWN
    assert not doubts_autoattack("of-somebody-else")


@pytest.mark.parametrize(
    ("code", "message"),
    [("FLAG = 3", "no flag named 'theirs'"), ("import nothing_of_the_kind", "does not load")],
)
def test_an_entry_point_that_is_no_flag_is_named(registry, tmp_path, monkeypatch, code, message):
    (tmp_path / "odd_flags.py").write_text(code)
    info = tmp_path / "odd-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rstbench.flags]\ntheirs = odd_flags:FLAG\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_flags", raising=False)
    with pytest.raises(BadRequest, match=message):
        meaning_of("theirs")
