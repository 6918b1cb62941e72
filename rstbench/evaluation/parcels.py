"""Send tasks to processes of this machine, each model once: in a file, or by what names it."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..evidence.trial import ModelInfo
from ..models.contents import uses_only_libraries
from ..models.wrapper import EvalModel, Origin, load_reference

KEPT = 16  # models that a process keeps


class _File(NamedTuple):
    """Where a model lies that a process can unpickle."""

    path: str


class _Again(NamedTuple):
    """How to load a model again whose code may depend on more than a pickle holds."""

    origin: Origin
    info: ModelInfo
    digest: str


class Parcels:
    """Pack tasks; the models in them go into files of a temporary folder, which `close` removes.

    Another place for them is a subclass with a `stored` of its own.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # By id; the model is held so that its id is not another's meanwhile.
        self._tokens: dict[int, tuple[EvalModel, Any]] = {}

    @property
    def folder(self) -> str:
        """Where the models lie, which exists from now on."""
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="rstbench-")
        return self._folder.name

    def pack(self, task: object) -> bytes:
        """Return a task for `unpack`. Raises whatever pickling raises, and for models that must stay here."""
        buffer = io.BytesIO()
        _Packer(buffer, self).dump(task)
        return buffer.getvalue()

    def token(self, value: object) -> Any:
        """Return what stands for a model in a task, None for anything else."""
        if not isinstance(value, EvalModel):
            return None
        if id(value) not in self._tokens:
            self._tokens[id(value)] = value, self._new_token(value)
        return self._tokens[id(value)][1]

    def stored(self, model: EvalModel) -> Any:
        """Put a model where others find it, and return its token."""
        path = Path(self.folder) / f"{len(self._tokens)}.pickle"
        path.write_bytes(pickle.dumps(model))
        return _File(str(path))

    def close(self) -> None:
        self._tokens.clear()
        if self._folder:
            self._folder.cleanup()

    def _new_token(self, model: EvalModel) -> Any:
        if uses_only_libraries(model.module):
            return self.stored(model)
        if not model.origin or not model.resumable:
            raise pickle.PicklingError(f"{model.info.name} is of code that only this process has")
        return _Again(model.origin, model.info, model.digest)


class _Packer(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, parcels: Parcels) -> None:
        super().__init__(buffer)
        self._parcels = parcels

    def persistent_id(self, value: Any) -> Any:
        return self._parcels.token(value)


def unpack(packed: bytes, load: Callable[[Any], Any] | None = None) -> Any:
    """Return a task that `pack` packed; load: what makes of a token what it stands for. Raises where a model
    is not the one it was."""
    return _Unpacker(io.BytesIO(packed), load or load_token).load()


class _Unpacker(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, load: Callable[[Any], Any]) -> None:
        super().__init__(buffer)
        self._load = load

    def persistent_load(self, token: Any) -> Any:
        return self._load(token)


def load_token(token: _File | _Again) -> EvalModel:
    """Return the model of a token, one of the last few from memory. Raises where it is another one."""
    key = token.path if isinstance(token, _File) else token.digest
    if key not in _kept:
        _kept[key] = _loaded(token)
    _kept.move_to_end(key)
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return _kept[key] if isinstance(token, _File) else replace(_kept[key], info=token.info)


def _loaded(token: _File | _Again) -> EvalModel:
    if isinstance(token, _File):
        model: EvalModel = pickle.loads(Path(token.path).read_bytes())
        return model
    model = load_reference(token.origin.reference, token.origin.images)
    if model.digest != token.digest:
        raise pickle.UnpicklingError(f"{token.info.name} is another model in this process")
    return model


_kept = OrderedDict[str, EvalModel]()  # the last ones that this process was sent
