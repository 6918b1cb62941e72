"""State dicts out of files, without running what is in them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadFile, BadRequest
from .csr import expanded

# Under which key training code keeps the weights in its checkpoints.
NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "model.", "_orig_mod.")
MOST_NAMED = 3
_MAGIC = (b"PK", b"\x80")  # a zip archive, or a bare pickle as torch.save wrote until 1.5


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of what `torch.save` wrote, by name.

    Nested checkpoints are opened, the prefixes of DataParallel and torch.compile taken off, compressed
    weights (see `csr`) expanded. Raises BadFile
    for files that are missing, damaged, hold no tensors, or would run code.
    """
    path = path.expanduser()
    if not path.is_file():
        raise BadFile(f"no file {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return expanded(load_file(path))
        except (SafetensorError, OSError) as error:
            raise BadFile(f"{path} is no whole safetensors file: {error}") from None
    with path.open("rb") as file:
        head = file.read(16)
    if not head.startswith(_MAGIC):
        raise BadFile(f"{path} is no file of torch.save: it begins with {head!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the answer is below
            found: Any = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) or "Unsupported" in str(error):
            raise BadFile(
                f"{path} holds more than tensors, and loading it would run code; save its state dict alone "
                f"(torch.save(model.state_dict(), …)), or load it in a file of your own: file:PATH.py:factory"
            ) from None
        raise BadFile(f"{path} is damaged: {_line(error)}") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadFile(f"{path} is no whole file of torch.save: {_line(error)}") from None
    return _plain(found, path)


def fitted(module: nn.Module, state: Mapping[str, Tensor], *, ordered: bool = True) -> dict[str, Tensor]:
    """A state dict as a module can take it, as far as that is clear; else as it is.

    Under the module's own names a 1x1 kernel may stand for a matrix. Other names are matched in their order,
    where the file has one (`ordered`): weights with weights, biases with biases, means with means, all shapes
    being the same.
    """
    own = module.state_dict()
    if set(state) <= set(own):
        return {name: _as(tensor, own[name]) for name, tensor in state.items()}
    return _by_order(own, state) if ordered else dict(state)


def _by_order(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mine, theirs = _by_leaf(own), _by_leaf(state)
    renamed: dict[str, Tensor] = {}
    for leaf in {*mine, *theirs}:
        names, tensors = mine.get(leaf, []), [state[name] for name in theirs.get(leaf, [])]
        if [_core(own[name].shape) for name in names] != [_core(tensor.shape) for tensor in tensors]:
            return dict(state)
        renamed |= {name: _as(tensor, own[name]) for name, tensor in zip(names, tensors, strict=True)}
    return renamed


def _by_leaf(state: Mapping[str, Tensor]) -> dict[tuple[str, bool], list[str]]:
    """Names by what they end in and whether they are matrices or vectors; counters are left out."""
    found: dict[tuple[str, bool], list[str]] = {}
    for name, tensor in state.items():
        if tensor.dim():
            found.setdefault((name.rpartition(".")[2], tensor.dim() > 1), []).append(name)
    return found


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    same = tensor.dim() > 1 and _core(tensor.shape) == _core(like.shape)
    return tensor.reshape(like.shape) if same else tensor


def _core(shape: torch.Size) -> tuple[int, ...]:
    """A shape without the trailing ones of a 1x1 kernel."""
    sizes = list(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def put_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """The module with this state, all names and shapes fitting. Raises BadRequest that names the others."""
    own = module.state_dict()
    lacking = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    strange = [name for name in state if name not in own]
    wrong = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        f"{problem} {', '.join(names[:MOST_NAMED])}{', …' if len(names) > MOST_NAMED else ''}"
        for names, problem in ((lacking, "lacks"), (strange, "also has"), (wrong, "has of another shape"))
        if names
    ]
    if problems:
        raise BadRequest(f"{what}: the file {'; '.join(problems)}; choose another arch")
    module.load_state_dict({**own, **state})
    return module.requires_grad_(False).eval()


def _plain(found: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(found, Mapping):
        inner = next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise BadFile(f"{path} holds no state dict, but {_kind(found)}")
    state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    for name, value in state.items():
        if value.layout != torch.strided or value.is_complex():
            raise BadFile(f"{path}: {name} is sparse or complex; save dense real weights")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return expanded(state)


def _kind(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dictionary of {', '.join(map(str, list(found)[:5]))}" if found else "an empty dictionary"
    return f"a {type(found).__name__}"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:200]
