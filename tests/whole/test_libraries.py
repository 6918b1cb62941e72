"""Library networks and graphs on the command line: what does not fit is named, the rest is measured."""

from __future__ import annotations

import numpy as np
import onnx
import pandas as pd
import torch
from onnx import TensorProto, helper, numpy_helper

from rstbench.data import load

ASKED = (
    "--data",
    "digits:test:20",
    "--threat",
    "Linf:0.05",
    "--attack",
    "pgd:steps=2",
    "--out",
    "run",
    "--quiet",
)


def test_a_network_of_other_channels_is_named_and_the_rest_goes_on(cli, ticket_files, tmp_path):
    done = cli("evaluate", "torchvision:squeezenet1_1", f"ticket:{ticket_files[0]}", *ASKED)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "it takes 3 channels, the images have 1; add [in_chans=1]" in done.stderr
    board = pd.read_csv(tmp_path / "run" / "leaderboard.csv")
    assert list(board["model"]) == [ticket_files[0].stem, "torchvision:squeezenet1_1[seed=0]"]
    assert list(board["worst"].notna()) == [True, False]


def test_a_graph_for_one_image_is_measured_in_batches(cli, tmp_path):
    """Its accuracy is that of its matrix, whatever the batch size."""
    x, y = load("digits:test:20").at(slice(None))
    weight = torch.linalg.lstsq(x.flatten(1), torch.nn.functional.one_hot(y, 10).float() * 4).solution
    weight += torch.randn(64, 10, generator=torch.Generator().manual_seed(0)) * 0.5
    wanted = float((x.flatten(1) @ weight).argmax(1).eq(y).float().mean())
    assert 0 < wanted < 1
    nodes = [helper.make_node("Reshape", ["x", "s"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    held = {"s": np.array([1, 64]), "w": weight.numpy()}
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])
    constants = [numpy_helper.from_array(value, name) for name, value in held.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [logits], constants),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "one.onnx")
    for batch in ("7", "auto"):
        done = cli("evaluate", "onnx:one.onnx", *ASKED, "--batch-size", batch)
        assert done.returncode == 0, done.stderr
        assert pd.read_csv(tmp_path / "run" / "leaderboard.csv")["clean"].tolist() == [wanted]
