"""Graphs with another axis order, flat inputs or one image at a time agree with their runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.models.sources.axis_order import ONE_BY_ONE, ORDERS, input_layout
from rstbench.models.wrapper import load_reference
from tests.unit.graphs import COLOUR, GREY, Colours, by_channel, linear, same, written


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:7")


def by_pixel(x):
    return x.permute(0, 2, 3, 1).flatten(1) @ COLOUR


@pytest.mark.parametrize("reshape", [(-1,), (1,), (0,)])
def test_one_image_at_once(tmp_path, digits, reshape):
    """A batch of 1 in the input, or a free one that a reshape does not keep."""
    for batch in (1, "n"):
        reference = linear(tmp_path / f"{batch}.onnx", [batch, 1, 8, 8], GREY, reshape=reshape)
        entry = same(reference, digits, by_channel)
        assert entry.notes == ((ONE_BY_ONE,) if batch == 1 or reshape == (1,) else ())


@pytest.mark.parametrize("batch", ["n", 1])
def test_channels_last(tmp_path, digits, batch):
    same(linear(tmp_path / "a.onnx", [batch, 4, 4, 3], COLOUR, reshape=(-1,)), Colours, by_pixel)
    same(linear(tmp_path / "b.onnx", [batch, 8, 8, 1], GREY), digits, by_channel)
    same(linear(tmp_path / "c.onnx", [batch, "h", "w", 3], COLOUR), Colours, by_pixel)
    same(linear(tmp_path / "d.onnx", [batch, "c", "h", "w"], COLOUR), Colours, by_channel)
    alone = load_reference(linear(tmp_path / "e.onnx", ["n", 4, 4, 3], COLOUR))  # the file alone tells
    x = torch.rand(3, 3, 4, 4)
    assert torch.allclose(alone.module(x), by_pixel(x), atol=1e-4)


def test_flattened_images(tmp_path, digits):
    same(linear(tmp_path / "a.onnx", ["n", 64], GREY, flat=True), digits, by_channel)
    same(linear(tmp_path / "b.onnx", [1, 64], GREY, flat=True), digits, by_channel)
    same(linear(tmp_path / "c.onnx", ["n", 8, 8], GREY), digits, by_channel)
    colour = linear(tmp_path / "d.onnx", ["n", 48], COLOUR, flat=True)
    with pytest.raises(BadRequest, match=r"48 numbers an image, their order is .*; add \[layout=nchw\]"):
        load_reference(colour, Colours)
    nchw = same(f"{colour}[layout=nchw]", Colours, by_channel)
    nhwc = same(f"{colour}[layout=nhwc]", Colours, by_pixel)
    assert nchw.digest != nhwc.digest
    with pytest.raises(BadRequest, match="layout is nchw or nhwc, got 'hwc'"):
        load_reference(f"{colour}[layout=hwc]", Colours)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_other_precisions(tmp_path, digits, kind):
    numpy = {TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}[kind]
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    held = {"w": (GREY / 8).numpy().astype(numpy)}
    reference = written(tmp_path / "a.onnx", nodes, ["n", 1, 8, 8], held, kind=kind, out=kind)
    module = load_reference(reference, digits).module
    x = torch.rand(4, 1, 8, 8)
    logits = module(x)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, by_channel(x) / 8, atol=1e-2)


@pytest.mark.parametrize(
    ("sizes", "shape", "form", "last"),
    [
        ((None, 3, 32, 32), (3, 32, 32), (3, 32, 32), False),
        ((None, 32, 32, 3), (3, 32, 32), (32, 32, 3), True),
        ((None, None, None, None), (3, 5, 7), (3, 5, 7), False),
        ((None, None, None, 3), (3, 5, 7), (5, 7, 3), True),
        ((1, 3, 3, 3), (3, 3, 3), (3, 3, 3), False),
        ((None, 224, 224, 3), None, (224, 224, 3), True),
        ((None, 3, 224, 224), None, (3, 224, 224), False),
    ],
)
def test_layouts_by_hand(sizes, shape, form, last):
    found = input_layout(sizes, shape, "", torch.float32, "onnx:a")
    assert (found.input_shape, found.channels_last, found.batch_of_one) == (form, last, sizes[0] == 1)
    channels, height, width = found.shape
    x = torch.arange(2.0 * channels * height * width).view(2, *found.shape)
    transformed = found.transform(x)
    assert transformed.shape == (2, *form)
    where = (1, 2, 1, 0) if last else (1, 0, 2, 1)
    assert transformed[where] == x[1, 0, 2, 1]
    assert set(ORDERS) == {"nchw", "nhwc"}


def test_a_graph_agrees_with_its_runtime_in_both_forms(tmp_path, digits):
    """The same file asked by ONNX Runtime, image by image."""
    reference = linear(tmp_path / "a.onnx", [1, 1, 8, 8], GREY, reshape=(1,))
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    x, _ = digits.at(slice(None))
    wanted = np.concatenate([session.run(None, {"x": image[None].numpy()})[0] for image in x])
    assert torch.allclose(load_reference(reference, digits).module(x), torch.from_numpy(wanted), atol=1e-4)
