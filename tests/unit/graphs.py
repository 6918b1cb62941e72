"""ONNX graphs and programs of torch.export, written by hand for tests."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from rstbench.models.wrapper import load_reference

W = torch.Generator().manual_seed(3)


GREY = torch.randn(64, 10, generator=W)


COLOUR = torch.randn(3 * 4 * 4, 10, generator=W)


class Colours:
    """What a source is told of a colour data set of 4x4 images."""

    classes, shape = 10, (3, 4, 4)


def written(
    path, nodes, x, held, *, y=("n", 10), kind=TensorProto.FLOAT, out=TensorProto.FLOAT, opset=13, outputs=1
):
    """A graph by hand: input x, output y, constants by name."""
    given = helper.make_tensor_value_info("x", kind, x)
    wanted = [helper.make_tensor_value_info(name, out, y) for name in ("y", "z")[:outputs]]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], wanted, constants),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    model.ir_version = 8
    onnx.save(model, path)
    return f"onnx:{path}"


def linear(path, x, weight, *, reshape=(-1,), flat=False, **settings):
    """y = x w, behind a reshape to `reshape` x features unless the input is flat."""
    held = {"w": weight.numpy(), "s": np.array([*reshape, len(weight)])}
    nodes = [helper.make_node("Reshape", ["x", "s"], ["f"])]
    nodes = [] if flat else nodes
    held = {"w": held["w"]} if flat else held
    nodes.append(helper.make_node("MatMul", ["x" if flat else "f", "w"], ["y"]))
    return written(path, nodes, x, held, **settings)


def same(reference, images, wanted):
    """The module's logits, and their gradients, are those of x -> wanted(x), in batches of any size."""
    entry = load_reference(reference, images)
    x = torch.rand(5, *images.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.allclose(entry.module(x), wanted(x), atol=1e-4)
    assert torch.allclose(entry.module(x[:1]), wanted(x[:1]), atol=1e-4)
    chosen = torch.randn(5, 10, generator=torch.Generator().manual_seed(2))
    (mine,) = torch.autograd.grad((entry.module(x) * chosen).sum(), x)
    (exact,) = torch.autograd.grad((wanted(x) * chosen).sum(), x)
    assert torch.allclose(mine, exact, atol=1e-4)
    assert entry.resumable
    assert load_reference(reference, images).digest == entry.digest
    return entry


def by_channel(x):
    return x.flatten(1) @ (GREY if x.shape[1] == 1 else COLOUR)


def normed(path, *, opset, outputs=1, **settings):
    """A batch norm before the matrix, as exporters write it in training mode and outside of it."""
    more = ["m", "v", "sm", "sv"][: outputs - 1]
    nodes = [
        helper.make_node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["b", *more], **settings),
        helper.make_node("Flatten", ["b"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    held = {"w": GREY.numpy(), "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    return written(path, nodes, ["n", 1, 8, 8], held, opset=opset)


def exported(net, path, batch=2, *, free=True, x=None):
    x = torch.rand(batch, 1, 8, 8) if x is None else x
    shapes = ({0: torch.export.Dim.AUTO},) if free else None
    program = torch.export.export(net, (x,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return f"torch-export:{path}"
