"""ONNX graphs of odd versions, precisions and modes: converted exactly, or refused by their reason."""

from __future__ import annotations

import os
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.wrapper import load_reference
from tests.unit.graphs import GREY, by_channel, exported, linear, normed, same, written


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:7")


def test_graphs_that_are_refused(tmp_path, digits):
    flat = helper.make_node("Flatten", ["x"], ["f"])
    product = helper.make_node("MatMul", ["f", "w"], ["y"])
    weight = {"w": GREY.numpy()}
    images = ["n", 1, 8, 8]
    statistics = {"one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    norm = helper.make_node("InstanceNormalization", ["x", "one", "zero"], ["i"])
    node = helper.make_node
    mean, centred = node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["d"])
    noise, noisy = node("RandomUniformLike", ["x"], ["r"]), node("Add", ["x", "r"], ["d"])
    then = node("Flatten", ["d"], ["f"])
    label = [node("MatMul", ["f", "w"], ["p"]), node("ArgMax", ["p"], ["y"], axis=1, keepdims=0)]
    graphs = {
        "batch of 3": (linear(tmp_path / "3.onnx", [3, 1, 8, 8], GREY), "takes 3 images at once only"),
        "bytes": (
            written(tmp_path / "u.onnx", [node("Cast", ["x"], ["d"], to=1), then, product], images, weight,
                    kind=TensorProto.UINT8),
            "takes uint8 numbers, and images are float32 in",
        ),
        "a label": (
            written(tmp_path / "l.onnx", [flat, *label], images, weight, y=["n"], out=TensorProto.INT64),
            r"wanted logits of shape \(n, classes\), got int64 \(1,\)",
        ),
        "a map": (
            written(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], images, {}, y=images),
            r"wanted logits of shape \(n, classes\), got float32 \(1, 1, 8, 8\)",
        ),
        "no number": (linear(tmp_path / "n.onnx", images, GREY * torch.nan), "logits that are not finite"),
        "a foreign operator": (
            written(tmp_path / "f.onnx", [node("Foo", ["x"], ["y"], domain="ours")], images, {}),
            "does not run in ONNX Runtime|is no whole ONNX file",
        ),
        "two outputs": (
            written(tmp_path / "2.onnx", [flat, product, node("Relu", ["y"], ["z"])], images,
                    weight, outputs=2),
            "wants one input and one output, and has the outputs y, z",
        ),
        "another shape": (linear(tmp_path / "s.onnx", ["n", 3, 8, 8], torch.ones(192, 10)),
                          "takes images of 3 x 8 x 8, the data has 1 x 8 x 8"),
        "another length": (linear(tmp_path / "t.onnx", ["n", 65], torch.ones(65, 10), flat=True),
                           "takes inputs of 65, the data has images 1 x 8 x 8"),
        "the batch's mean": (
            written(tmp_path / "b.onnx", [mean, centred, then, product], images, weight),
            "answers an image differently beside others; export it in eval mode",
        ),
        "noise": (
            written(tmp_path / "r.onnx", [noise, noisy, then, product], images, weight),
            "cannot become a torch module|answers the same image differently",
        ),
    }  # fmt: skip
    for name, (reference, message) in graphs.items():
        with pytest.raises(BadRequest, match=message) as refused:
            load_reference(reference, digits)
        assert "\n" not in str(refused.value), name
    nodes = [norm, helper.make_node("Flatten", ["i"], ["f"]), product]
    assert load_reference(written(tmp_path / "i.onnx", nodes, images, {**weight, **statistics}), digits)


def test_dropout_of_an_untrained_mode_draws_nothing(tmp_path, digits):
    """ONNX Runtime takes dropout out of what it runs, and the torch module has to agree with it."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Dropout", ["f", "half", "on"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    held = {"w": GREY.numpy(), "half": np.float32(0.5), "on": np.bool_(True)}
    same(written(tmp_path / "a.onnx", nodes, ["n", 1, 8, 8], held), digits, by_channel)


@pytest.mark.parametrize(
    ("opset", "settings"),
    [(13, {"outputs": 5}), (15, {"outputs": 3, "training_mode": 1}), (15, {"training_mode": 1})],
)
def test_graphs_of_the_training_mode(tmp_path, digits, opset, settings):
    with pytest.raises(BadRequest, match=r"was exported in training mode, .*; export it after net.eval\(\)"):
        load_reference(normed(tmp_path / "t.onnx", opset=opset, **settings), digits)
    plain = normed(tmp_path / "e.onnx", opset=opset, epsilon=1e-12)
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(load_reference(plain, digits).module(x), by_channel(x), atol=1e-4)


def test_operators_that_lack_double_precision(tmp_path, digits):
    """Whichever ONNX Runtime has no kernel for: the way out is the precision of images."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    held = {"k": np.full((1, 1, 1, 1), 2.0), "w": GREY.double().numpy()}
    double = {"kind": TensorProto.DOUBLE, "out": TensorProto.DOUBLE}
    with pytest.raises(BadRequest, match=r"its numbers are float64: export it in float32 \(net.float\(\)\)"):
        load_reference(written(tmp_path / "d.onnx", nodes, ["n", 1, 8, 8], held, **double), digits)
    single = {name: value.astype(np.float32) for name, value in held.items()}
    same(written(tmp_path / "s.onnx", nodes, ["n", 1, 8, 8], single), digits, lambda x: by_channel(2 * x))


def test_files_of_another_kind_are_named(tmp_path, digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(tmp_path / "script.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    save_file(net.state_dict(), tmp_path / "state.safetensors")
    exported(net, tmp_path / "program.pt2", x=torch.rand(2, 1, 8, 8))
    linear(tmp_path / "graph.onnx", ["n", 1, 8, 8], GREY)
    for text, message in (
        ("torch-export:script.pt", r"a TorchScript archive; torch.jit.load\(…\) in a file of your own"),
        ("torch-export:state.pt", r"a file of torch.save; use weights:FILE\[arch=NETWORK\]"),
        ("torch-export:state.safetensors", r"a safetensors file; use weights:FILE\[arch=NETWORK\]"),
        ("torch-export:graph.onnx", "is no program of torch.export"),
        ("onnx:script.pt", "a TorchScript archive"),
        ("onnx:state.pt", "a file of torch.save; use weights"),
        ("onnx:program.pt2", "a program of torch.export; use torch-export:FILE"),
    ):
        source, _, name = text.partition(":")
        with pytest.raises(BadFile, match=message):
            load_reference(f"{source}:{tmp_path}/{name}", digits)


@pytest.mark.parametrize("opset", [7, 9, 13, 20])
def test_old_and_new_operators(tmp_path, digits, opset):
    same(linear(tmp_path / "a.onnx", ["n", 1, 8, 8], GREY, opset=opset), digits, by_channel)


def test_weights_in_a_file_beside(tmp_path, digits, monkeypatch):
    linear(tmp_path / "a.onnx", ["n", 1, 8, 8], GREY)
    model = onnx.load(tmp_path / "a.onnx")
    (tmp_path / "there").mkdir()
    beside = {"save_as_external_data": True, "location": "a.data", "size_threshold": 0}
    onnx.save(model, tmp_path / "there" / "a.onnx", **beside)
    assert (tmp_path / "there" / "a.data").is_file()
    monkeypatch.chdir(tmp_path)
    same("onnx:there/a.onnx", digits, by_channel)
    os.remove("there/a.data")
    with pytest.raises(BadFile, match="is no whole ONNX file"):
        load_reference("onnx:there/a.onnx", digits)
