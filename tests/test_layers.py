"""Imports point one way: a module imports only from layers below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rstbench"
# Lowest first. A folder stands for all that is nested in it.
LAYERS = [
    [
        "__init__",
        "archives",
        "errors",
        "files",
        "flags",
        "limits",
        "parsing",
        "plugins",
        "progress",
        "references",
        "threat",
    ],  # files, in any order without a cycle
    ["evidence"],
    ["reports"],
    ["data", "attacks", "networks"],
    ["training"],
    ["tickets"],
    ["models"],
    ["certificates"],
    ["evaluation"],
    ["study"],
    ["api", "cli"],
    ["__main__"],
]
WITHOUT_TORCH = [
    "archives",
    "errors",
    "files",
    "flags",
    "limits",
    "parsing",
    "plugins",
    "progress",
    "references",
    "threat",
    "evidence",
    "reports",
    "networks.choices",
    "training.recipe",
    "study.plan",
    "study.reading",
    "study.jobs",
    "cli",
]
REPORTS_MAY = {*LAYERS[0], "evidence", "reports"}


@cache
def modules():
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def layer(module):
    """The place of the folder that a module lies in, or of a module beside the folders."""
    return next(place for place, names in enumerate(LAYERS) if module.split(".")[0] in names)


@cache
def imports(module, path, *, everywhere):
    """Our modules that a module imports: at the top only, or in functions too."""
    tree = ast.parse(path.read_text())
    if module == "__init__":  # it names for editors what lies above it, and loads nothing of it
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    package = module.split(".")[:-1]
    nodes = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("rstbench")):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = (node.module or "").removeprefix("rstbench").strip(".")
            full = ".".join([*base, *filter(None, [name])])
            for alias in node.names:
                inner = f"{full}.{alias.name}".strip(".")
                found.add(
                    inner if inner in modules() or f"{inner}.__init__" in modules() else full or "__init__"
                )
    return {f"{name}.__init__" if f"{name}.__init__" in modules() else name for name in found}


def folder(module):
    return module.removesuffix(".__init__")


def test_layers_are_folders():
    assert len(LAYERS) <= 12
    top = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert {name for names in LAYERS for name in names} == top


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module):
    own = module.split(".")[0]
    for name in imports(module, modules()[module], everywhere=True):
        below = name.split(".")[0]
        is_lower = layer(name) < layer(module) or layer(name) == layer(module) == 0
        assert below == own or is_lower, f"{module} imports {name}, which is not below it"


def test_no_cycles_between_modules():
    graph = {m: imports(m, p, everywhere=True) - {m} for m, p in modules().items()}
    state = {}

    def visit(module, path):
        assert state.get(module) != "open", f"cycle: {' -> '.join([*path, module])}"
        if module not in state:
            state[module] = "open"
            for inner in graph.get(module, ()):
                visit(inner, [*path, module])
            state[module] = "done"

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize("module", [m for m in sorted(modules()) if m.startswith("reports.")])
def test_reports_know_evidence_only(module):
    found = {name.split(".")[0] for name in imports(module, modules()[module], everywhere=True)}
    assert found <= REPORTS_MAY


def test_third_parties_are_touched_in_one_module():
    users = {"robustbench": set(), "pyautoattack": set()}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                if name.split(".")[0] in users:
                    users[name.split(".")[0]].add(module)
    assert users == {
        "robustbench": {"models.sources.robustbench"},
        "pyautoattack": {"attacks.autoattack.library"},
    }


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_light_modules_load_no_torch():
    names = [m for m in modules() if any(m == w or m.startswith(w + ".") for w in WITHOUT_TORCH)]
    imported = "; ".join(f"import rstbench.{folder(name)}" for name in names)
    assert run(f"import sys, rstbench; {imported}; print('torch' in sys.modules)") == "False\n"


HEAVY = {"torch", "numpy", "pandas", "matplotlib", "scipy", "sklearn"}


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["evaluate", "--help"]])
def test_help_and_list_load_nothing_that_takes_long(arguments):
    code = f"import sys; from rstbench.cli import main; main({arguments!r})"
    guarded = f"try:\n  exec({code!r})\nexcept SystemExit: pass"
    loaded = run(f"import sys\n{guarded}\nprint('LOADED', sorted({HEAVY} & {{*sys.modules}}))")
    assert loaded.endswith("LOADED []\n")


def test_public_names_are_there():
    import rstbench

    assert rstbench.__all__ == sorted(rstbench.__all__)
    for name in rstbench.__all__:
        assert getattr(rstbench, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rstbench.nothing  # noqa: B018
