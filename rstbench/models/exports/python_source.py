"""Write a network's architecture as a Python file that needs torch alone."""

from __future__ import annotations

import builtins
import importlib
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ...errors import BadRequest, first_line

CANNOT = "the network cannot be written as Python"
HEAD = '''"""{about}"""

from pathlib import Path

import torch
from torch import nn
'''
# The expression that reads each format of weights.
LOADERS = {
    "torch": 'torch.load(path, weights_only=True, map_location="cpu")',
    "safetensors": "load_file(path)",
}
LOAD = '''

def bare():
    """The network without its weights."""
    return {build}


def network(path=Path(__file__).parent / {file!r}):
    """The network with its weights, in eval mode: images in [0, 1] of shape {shape} to logits."""
    state = {load}
    net = bare()
    net.load_state_dict({state})
    return net.requires_grad_(False).eval()
'''
# The inverse of `checkpoints.csr.to_csr`.
DENSE = '''

def dense(state):
    """The state dict without its compression: NAME.values, .crow_indices and .col_indices are one matrix."""
    full = {}
    for name, tensor in state.items():
        name, _, part = name.rpartition(".")
        if part == "values":
            rows, columns = state[f"{name}.crow_indices"].long(), state[f"{name}.col_indices"].long()
            shape = state[f"{name}.shape"].tolist()
            full[name] = torch.zeros(shape)
            which = torch.repeat_interleave(torch.arange(len(rows) - 1), rows.diff())
            full[name].flatten(1)[which, columns] = tensor
        elif part not in ("crow_indices", "col_indices", "shape"):
            full[f"{name}.{part}" if name else part] = tensor
    return full
'''
GRAPH = """

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        parts = {{
{parts}
        }}
        for path, part in parts.items():
            *parents, leaf = path.split(".")
            owner = self
            for name in parents:
                if not hasattr(owner, name):
                    owner.add_module(name, nn.Module())
                owner = getattr(owner, name)
            setattr(owner, leaf, part)

{forward}"""


def network_source(
    module: nn.Module, about: str, shape: tuple[int, int, int], file: str, *, compressed: bool = False
) -> str:
    """Write a Python file whose `network()` loads the module and whose `bare()` builds it without weights.

    module: of torch's own layers, in eval mode; file: of the weights, relative to the Python file. Raises
    BadRequest for a network that cannot be written.
    """
    build, classes, imports = _architecture(module)
    kind = "safetensors" if file.endswith(".safetensors") else "torch"
    if kind == "safetensors":
        imports = [*imports, "from safetensors.torch import load_file"]
    text = HEAD.format(about=about.replace("\\", "/").replace('"', "'"))
    text += "".join(f"{line}\n" for line in sorted(set(imports)))
    text += classes + (DENSE if compressed else "")
    text += LOAD.format(
        file=file,
        shape="(n, {}, {}, {})".format(*shape),
        load=LOADERS[kind],
        build=build,
        state="dense(state)" if compressed else "state",
    )
    _check(text, module, shape)
    return text


def _architecture(module: nn.Module) -> tuple[str, str, list[str]]:
    """Return (the expression that builds a module, the classes it needs, their imports)."""
    if expression := _sequence(module, "    "):
        return expression, "", []
    try:
        traced = torch.fx.symbolic_trace(module)
    except Exception as error:  # of whatever the tracer meets
        raise BadRequest(f"{CANNOT}: {first_line(error)}") from None
    for node in traced.graph.nodes:
        node.type = None  # annotations name classes that the file does not import
    parts = {str(n.target): None for n in traced.graph.nodes if n.op in ("call_module", "get_attr")}
    lines = "\n".join(f'            "{path}": {_part(traced, path)},' for path in parts)
    code = traced.graph.python_code("self")
    forward = "".join(f"    {line}\n" if line else "\n" for line in _forward(code.src).splitlines())
    classes = GRAPH.format(parts=lines, forward=forward)
    used = {name: value for name, value in code.globals.items() if re.search(rf"\b{name}\b", forward)}
    return "Network()", classes, list(_imports(used))


def _sequence(module: nn.Module, indent: str) -> str:
    """Write a sequence of torch's layers as one expression, '' for any other module."""
    if not isinstance(module, nn.Sequential):
        return _call(module) if _is_plain(module) else ""
    parts = [_sequence(part, indent + "    ") for part in module]
    lines = "".join(f"{indent}    {part},\n" for part in parts)
    return f"nn.Sequential(\n{lines}{indent})" if all(parts) else ""


def _forward(text: str) -> str:
    """Return a graph's code from `def forward` on, without the annotations and clean-up of torch.fx."""
    lines = [line.partition(";  ")[0].rstrip() for line in text.splitlines()]
    start = next(index for index, line in enumerate(lines) if line.startswith("def forward"))
    name = lines[start].partition("(self, ")[2].split(" ")[0].rstrip(",):").partition(":")[0]
    return "\n".join([f"def forward(self, {name}):", *lines[start + 1 :]]).rstrip()


def _part(traced: torch.fx.GraphModule, path: str) -> str:
    """Write the expression that builds a layer, parameter or buffer of a graph. Raises BadRequest."""
    parent, _, leaf = path.rpartition(".")
    part = getattr(traced.get_submodule(parent), leaf)
    if isinstance(part, nn.Module) and _is_plain(part):
        return _call(part)
    if isinstance(part, nn.Parameter):
        return f"nn.Parameter(torch.empty({tuple(part.shape)}))"
    if isinstance(part, Tensor):
        return f"nn.Buffer(torch.empty({tuple(part.shape)}, dtype={part.dtype}))"
    raise BadRequest(f"{CANNOT}: {path} is a {type(part).__name__}")


def _is_plain(part: nn.Module) -> bool:
    """Whether the printed form of a layer is the call that makes it."""
    return type(part).__module__.startswith("torch.nn.modules") and not list(part.children())


def _call(part: nn.Module) -> str:
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):  # later versions print more than earlier ones take
        kept = f"eps={part.eps}, momentum={part.momentum}, affine={part.affine}"
        tracked = "" if part.track_running_stats else ", track_running_stats=False"
        return f"nn.{type(part).__name__}({part.num_features}, {kept}{tracked})"
    return f"nn.{part!r}"


def _imports(names: Mapping[str, Any]) -> Iterable[str]:
    for name, value in names.items():
        if name in ("torch", "inf", "nan", "NoneType", "device") or hasattr(builtins, name):
            continue
        if isinstance(value, ModuleType):
            yield f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}")
            continue
        owner = getattr(value, "__module__", None)
        leaf = getattr(value, "__qualname__", "")
        if not owner or not hasattr(importlib.import_module(owner), leaf):
            raise BadRequest(f"{CANNOT}: it calls {name}")
        yield f"from {owner} import {leaf}" + ("" if leaf == name else f" as {name}")


def _check(text: str, module: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raise BadRequest unless the written network computes the module's logits, bit by bit."""
    namespace: dict[str, Any] = {"__file__": "network.py"}
    x = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    try:
        exec(compile(text, "network.py", "exec"), namespace)
        written = namespace["bare"]()
        written.load_state_dict(module.state_dict())
        with torch.no_grad():
            same = torch.equal(written.eval()(x), module(x))
    except Exception as error:  # of a layer whose printed form is not its call
        raise BadRequest(f"{CANNOT}: {error!r}") from None
    if not same:
        raise BadRequest(f"{CANNOT}: what is written computes something else")
