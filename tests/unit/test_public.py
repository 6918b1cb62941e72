"""The public names: one list for Python and for type checkers, and docstrings whose examples run."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import rstbench

ROOT = Path(rstbench.__file__).parent
# Classes whose public methods are documented as functions are.
WHOLE_CLASSES = ["AttackSpec", "Switch", "Threat", "Ticket"]


def stated_for_type_checkers():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: f"rstbench.{node.module}" for node in block.body for alias in node.names}


def test_type_checkers_see_the_same_names():
    assert stated_for_type_checkers() == rstbench._PUBLIC
    assert all(hasattr(import_module(module), name) for name, module in rstbench._PUBLIC.items())


@pytest.mark.parametrize("name", rstbench.__all__)
def test_examples_run(name, tmp_path, monkeypatch):
    """Every public docstring has an example, and what it shows comes out."""
    monkeypatch.chdir(tmp_path)
    thing = getattr(rstbench, name)
    parser = doctest.DocTestParser()
    examples = parser.get_doctest(inspect.getdoc(thing), {}, name, None, None)
    assert examples.examples
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(examples, out=said.append)
    assert not runner.failures, "".join(said)


def documented():
    for name in rstbench.__all__:
        thing = getattr(rstbench, name)
        yield name, thing
        if name in WHOLE_CLASSES:
            yield from (
                (f"{name}.{key}", getattr(thing, key))
                for key, value in vars(thing).items()
                if not key.startswith("_") and callable(getattr(thing, key)) and inspect.getdoc(value)
            )


@pytest.mark.parametrize(("name", "thing"), list(documented()), ids=[name for name, _ in documented()])
def test_every_parameter_is_documented(name, thing):
    text = inspect.getdoc(thing)
    called = thing.__call__ if name == "Attack" else thing
    if isinstance(thing, type) and issubclass(thing, Exception):
        return
    parameters = [p for p in inspect.signature(called).parameters if p not in ("self", "settings")]
    stated = re.search(r"^Args:\n((?:    .*\n|\n)*)", text + "\n", re.M)
    assert re.findall(r"^    (\w+):", stated[1] if stated else "", re.M) == parameters
