"""Read a module as a list of layers that bounds can be propagated through."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.node import Node as Call

from ..errors import BadRequest, one_line
from ..models.baked import baked
from .calls import call_function, call_method, constant_of
from .layers import Refused, call_module
from .operations import Affine, MaxPool, Operation, ReLU, Reshape, Scaling, Shape, Sum, folded
from .pullbacks import Pullback, pullback


@dataclass(frozen=True, eq=False)
class Node:
    """A layer of the network with the layers that it reads, by their places in the list.

    operation: None for the input, which is the first. shape: of its values, without the batch. back: of an
    affine layer, the layer backward.
    """

    name: str
    operation: Operation | None
    inputs: tuple[int, ...]
    shape: Shape
    back: Pullback | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in topological order; the last gives the logits."""

    nodes: tuple[Node, ...]

    def inputs_of_nonlinear(self) -> dict[int, int]:
        """Return for each layer that is not linear the place of the layer it reads."""
        nodes = enumerate(self.nodes)
        return {place: node.inputs[0] for place, node in nodes if isinstance(node.operation, ReLU | MaxPool)}

    def readers(self, place: int) -> list[Node]:
        """Return the layers that read a layer."""
        return [node for node in self.nodes if place in node.inputs]

    def size(self, place: int) -> int:
        """Return how many values a layer has."""
        return math.prod(self.nodes[place].shape)

    def pool_after(self, place: int) -> MaxPool | None:
        """Return the max pool that a layer is, or that alone reads it where it is a ReLU; None for others."""
        operation, readers = self.nodes[place].operation, self.readers(place)
        if isinstance(operation, ReLU) and len(readers) == 1:
            operation = readers[0].operation
        return operation if isinstance(operation, MaxPool) else None

    def values(self, x: Tensor) -> list[Tensor]:
        """Return the values of each layer for images x (n, c, h, w), in float64."""
        values: list[Tensor] = []
        for node in self.nodes:
            read = [values[place] for place in node.inputs]
            values.append(x.double() if node.operation is None else _apply(node.operation, read))
        return values


def read_network(module: nn.Module, shape: Sequence[int]) -> Network:
    """Return the layers of a module in eval mode with their weights in float64, norms folded.

    shape: of an image, (c, h, w). The module is not touched. Raises BadRequest, in one line that names the
    layer, for layers that no certificate knows, and for networks that cannot be traced.
    """
    halves = {p.dtype for p in module.state_dict().values() if p.is_floating_point() and p.itemsize < 4}
    if halves:
        raise BadRequest(f"certificates bound float32 networks, this one holds {halves.pop()}")
    hooked = [name for name, part in module.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        raise BadRequest(
            f"no certificate for a network with hooks, as on {hooked[0] or 'the whole'}: they compute"
        )
    overridden = [
        name
        for name, part in module.named_modules()
        if any(callable(getattr(type(part), attribute, None)) for attribute in vars(part))
    ]
    if overridden:
        raise BadRequest(
            f"no certificate for a network in which {overridden[0] or 'the whole'} has a method of its own"
        )
    try:
        exact = baked(copy.deepcopy(module)).requires_grad_(False).double().eval()
        traced = torch.fx.symbolic_trace(nn.Sequential(exact))
    except (Exception, SystemExit) as error:  # of a user's code, which is given placeholders
        raise BadRequest(
            f"no certificate for a network that cannot be traced: {one_line(error, 100)}"
        ) from None
    nodes = _fold(_Reader(traced).read(tuple(shape)))
    return Network(tuple(_with_pullback(node, nodes) for node in nodes))


def _with_pullback(node: Node, nodes: Sequence[Node]) -> Node:
    if not isinstance(node.operation, Affine):
        return node
    return replace(node, back=pullback(node.operation, nodes[node.inputs[0]].shape, node.shape))


class _Reader:
    """Walks through a traced module and appends its layers to a list."""

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules())
        self.nodes: list[Node] = []
        self.places: dict[Call, int] = {}
        self.storages: dict[Call, int] = {}  # calls whose values may share memory have the same number
        self.stale: set[Call] = set()  # whose memory may have been changed by way of another

    def read(self, shape: Shape) -> list[Node]:
        """Return the layers, those only that the logits depend on."""
        for call in self.traced.graph.nodes:
            if call.op == "placeholder":
                if self.nodes:
                    raise BadRequest(f"no certificate for a network with a second input, {call.target}")
                self.places[call] = self._append("input", None, (), shape)
                self.storages[call] = 0
            elif call.op == "output":
                return self._result(call)
            elif call.op != "get_attr" and not self._is_size(call):
                self._read_call(call)
        raise AssertionError("a traced module has an output")

    def _result(self, call: Call) -> list[Node]:
        (logits,) = call.args
        if not isinstance(logits, Call) or logits in self.stale or not self.places.get(logits):
            raise BadRequest("no certificate for a network that returns anything but one tensor of logits")
        nodes = self.nodes[: self.places[logits] + 1]
        if len(nodes[-1].shape) != 1:
            raise BadRequest(f"no certificate for a network whose logits have shape (n, {nodes[-1].shape})")
        return nodes

    def _is_size(self, call: Call) -> bool:
        """Whether a call asks for the size of a tensor, as `x.view(x.size(0), -1)` does."""
        if call.target in ("size", "dim") or (call.target is getattr and call.args[1] in ("shape", "ndim")):
            return True
        source = call.args[0] if call.target is operator.getitem else None
        return isinstance(source, Call) and self._is_size(source)

    def _read_call(self, call: Call) -> None:
        read = [arg for arg in call.args if isinstance(arg, Call) and arg in self.places]
        where = str(call.target) if call.op == "call_module" else call.name
        kind = self._kind(call)
        try:
            if not read:
                raise Refused("reads no layer")
            if self.stale.intersection(read):
                raise Refused("reads a layer of which a view was changed in place")
            self._read_layer(call, read, where, kind)
        except Refused as refusal:
            reason = f": {refusal}" if str(refusal) else ""
            where = where.removeprefix("0.")  # of the module that holds the network
            raise BadRequest(f"no certificate knows the layer {where!r} of type {kind}{reason}") from None

    def _read_layer(self, call: Call, read: list[Call], where: str, kind: str) -> None:
        shapes = [self.nodes[self.places[source]].shape for source in read]
        places = tuple(self.places[source] for source in read)
        if call.op == "call_module":
            operations, in_place = call_module(self.modules[str(call.target)], shapes[0])
        else:
            others = [self._constant(arg) for arg in call.args]
            kwargs = {key: self._constant(value) for key, value in call.kwargs.items()}
            reading: Callable[..., Any] = call_method if call.op == "call_method" else call_function
            operations, in_place = reading(call.target, others, kwargs, shapes)
        place = places[0]
        for operation in operations:
            inputs = places if isinstance(operation, Sum) else (place,)
            examples = [torch.zeros(1, *self.nodes[source].shape, dtype=torch.float64) for source in inputs]
            shape = tuple(_apply(_on_cpu(operation), examples).shape[1:])
            place = self._append(where, operation, inputs, shape)
        self.places[call] = place
        shares = in_place or all(isinstance(operation, Reshape) for operation in operations)
        self.storages[call] = self.storages[read[0]] if shares else len(self.nodes)
        if in_place:  # who reads the input later sees the result; of who reads its views it is not known
            if call.args[0] is not read[0]:
                raise Refused("changes a constant in place")
            self.places[read[0]] = place
            shared = {known for known, at in self.storages.items() if at == self.storages[read[0]]}
            self.stale |= shared - {call, read[0]}

    def _constant(self, arg: Any) -> Any:
        """Return a tensor that the network holds; layers and sizes as they are."""
        if isinstance(arg, Call) and arg.op == "get_attr":
            return constant_of(self.traced, str(arg.target))
        return arg

    def _kind(self, call: Call) -> str:
        if call.op == "call_module":
            return type(self.modules[str(call.target)]).__name__
        return str(getattr(call.target, "__name__", call.target))

    def _append(self, name: str, operation: Operation | None, inputs: tuple[int, ...], shape: Shape) -> int:
        self.nodes.append(Node(name, operation, inputs, shape))
        return len(self.nodes) - 1


def _on_cpu(operation: Operation) -> Operation:
    """Return the operation with its tensors on the CPU, where shapes are found out."""
    if not isinstance(operation, Affine):
        return operation
    tensors: dict[str, Any] = {k: v.cpu() for k, v in vars(operation).items() if isinstance(v, Tensor)}
    return replace(operation, **tensors)


def _apply(operation: Operation, read: list[Tensor]) -> Tensor:
    if isinstance(operation, Sum):
        return read[0] + read[1]
    if isinstance(operation, ReLU):
        return read[0].relu()
    return operation.apply(read[0])


def _fold(nodes: list[Node]) -> list[Node]:
    """Fold each scaling into the layer that only it reads, and leave out what the logits do not need."""
    readers = [sum(node.inputs.count(place) for node in nodes) for place in range(len(nodes))]
    kept: list[Node] = []
    places: dict[int, int] = {}
    needed = _needed(nodes)
    for place, node in enumerate(nodes):
        if place not in needed:
            continue
        inputs = tuple(places[source] for source in node.inputs)
        if isinstance(node.operation, Scaling) and readers[node.inputs[0]] == 1:
            before = kept[inputs[0]]
            one = folded(before.operation, node.operation) if isinstance(before.operation, Affine) else None
            if one is not None and before.shape == node.shape:
                kept[inputs[0]] = replace(before, operation=one)
                places[place] = inputs[0]
                continue
        places[place] = len(kept)
        kept.append(replace(node, inputs=inputs))
    return kept


def _needed(nodes: list[Node]) -> set[int]:
    needed = {0, len(nodes) - 1}
    for place in range(len(nodes) - 1, -1, -1):
        if place in needed:
            needed.update(nodes[place].inputs)
    return needed
