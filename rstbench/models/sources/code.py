"""Run the user's own code to build models: `file:PATH.py:factory`, `python:module:factory`."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import BadFile, BadRequest
from ...evidence.trial import ModelInfo
from ..wrapper import EvalModel, wrap


def file(id: str, **options: str) -> EvalModel:
    """Call `factory(**options)` of a Python file: `file:PATH.py:factory[option=value]`."""
    text, colon, factory = id.rpartition(":")
    if not colon or not factory.isidentifier():
        raise BadRequest(f"a model of one's own reads 'file:PATH.py:factory', got 'file:{id}'")
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise BadFile(f"no file {path}")
    with _local_imports(path.parent) as imported:
        module = _import_file(path)
        return _build(module, factory, f"file:{id}", [path], imported, options)


def python(id: str, **options: str) -> EvalModel:
    """Call `factory(**options)` of an importable module: `python:package.module:factory[option=value]`.

    The current folder is searched too.
    """
    name, colon, factory = id.rpartition(":")
    if not colon or not factory.isidentifier():
        raise BadRequest(f"an importable model reads 'python:package.module:factory', got 'python:{id}'")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise BadRequest(f"'python:{id}' does not import: {error!r}") from error
    package = name.partition(".")[0]
    origins = [known.__file__ for key, known in list(sys.modules.items()) if key.partition(".")[0] == package]
    files = [Path(origin) for origin in origins if origin]
    return _build(module, factory, f"python:{id}", files, list, options)


@contextmanager
def _local_imports(folder: Path) -> Iterator[Callable[[], list[Path]]]:
    """Let a file import its neighbours; yields a function that lists them, and unloads them afterwards.

    Another file's neighbour of the same name is another module.
    """
    before = set(sys.modules)

    def new_files() -> dict[str, Path]:
        new = {name: getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before}
        return {n: Path(file) for n, file in new.items() if file and folder in Path(file).resolve().parents}

    sys.path.insert(0, str(folder))  # as if it were run from its folder
    try:
        yield lambda: sorted(new_files().values())
    finally:
        sys.path.remove(str(folder))
        for name in new_files():
            if not name.startswith(_PREFIX):
                del sys.modules[name]


_PREFIX = "rstbench_file_"


def _import_file(path: Path) -> ModuleType:
    # Named by its path and content, so that an edited file is another module, and classes find their text.
    name = _PREFIX + hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadFile(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BadRequest(f"{path} does not run: {error!r}") from error
    return module


def _build(
    module: ModuleType,
    factory: str,
    text: str,
    files: list[Path],
    imported: Callable[[], list[Path]],
    options: dict[str, str],
) -> EvalModel:
    if not callable(getattr(module, factory, None)):
        offered = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise BadRequest(f"{text!r}: there is no {factory!r}; there are: {', '.join(offered) or 'none'}")
    net = getattr(module, factory)(**{name: _literal(value) for name, value in options.items()})
    given = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
    name = f"{text}[{given}]" if given else text
    # The factory's name and options may live on in closures that no attribute shows.
    made_by = f"{factory}[{given}]"
    return wrap(net, ModelInfo(name, "external"), files=[*files, *imported()], made_by=made_by)


def _literal(text: str) -> Any:
    """Return numbers and True as such, anything else as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
