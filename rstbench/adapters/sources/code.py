"""Models built by the user's own code, which runs: `file:PATH.py:factory`, `python:module:factory`."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import BadFile, BadRequest
from ...harness.trial import Card
from ..entry import Entry, enter


def file(id: str, **options: str) -> Entry:
    """`file:PATH.py:factory[option=value]`: calls `factory(**options)` of a Python file."""
    text, colon, factory = id.rpartition(":")
    if not colon or not factory.isidentifier():
        raise BadRequest(f"a model of one's own reads 'file:PATH.py:factory', got 'file:{id}'")
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise BadFile(f"no file {path}")
    return _build(_run(path), factory, f"file:{id}", path, options)


def python(id: str, **options: str) -> Entry:
    """`python:package.module:factory[option=value]`: calls `factory(**options)` of an importable module."""
    name, colon, factory = id.rpartition(":")
    if not colon or not factory.isidentifier():
        raise BadRequest(f"an importable model reads 'python:package.module:factory', got 'python:{id}'")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise BadRequest(f"'python:{id}' does not import: {error!r}") from error
    path = Path(module.__file__) if module.__file__ else None
    return _build(module, factory, f"python:{id}", path, options)


def _run(path: Path) -> ModuleType:
    # Named by its path and content, so that an edited file is another module, and classes find their text.
    name = "rstbench_file_" + hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadFile(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # as if it were run from its folder
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadRequest(f"{path} does not run: {error!r}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _build(module: ModuleType, factory: str, text: str, path: Path | None, options: dict[str, str]) -> Entry:
    if not callable(getattr(module, factory, None)):
        offered = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise BadRequest(f"{text!r}: there is no {factory!r}; there are: {', '.join(offered) or 'none'}")
    values = {name: _literal(value) for name, value in options.items()}
    made = getattr(module, factory)(**values)
    name = text + (f"[{','.join(f'{k}={v}' for k, v in options.items())}]" if options else "")
    return enter(made, Card(name, "external"), files=[path] if path else [])


def _literal(text: str) -> Any:
    """Numbers and True as such, anything else as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
