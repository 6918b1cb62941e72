"""Make one valid input of each kind, whole but small, for the mutations to start from."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import rstbench
from rstbench.evidence.packing import pack_folder
from rstbench.reports.tables import write
from rstbench.tickets.checkpoint import Checkpoint
from rstbench.tickets.ticket import Ticket
from tests.hand_run import write_hand_run

STUDY = """
name = "mine"
data = "digits:test:40"
threats = ["Linf:0.1", "L2:1/2"]
attacks = ["pgd:steps=2", {attack = "autoattack", threat = "Linf:0.1"}]
certificates = ["crown:alpha=2"]
curve = {norm = "Linf", eps = ["0.005", 0.01]}
images = 20
seeds = [0, 1]
transfer = true
switch = true
switch-weights = ["equal", "best"]

[common]
width = 0.5
network = "conv2"

[[draw]]
name = "rst"
remaining = [0.05, "0.1"]
method = "rst"
adversary = "pgd:steps=7,step=1/4"
allocation = "p:0.1"
pattern = "2:4"
epochs = 3

[[train]]
name = "dense"
drops = "1/2+3/4"
lr = 0.1

[[model]]
ref = "weights:net.pt[arch=conv2,width=0.1,normalize=0.5/0.25]"
name = "other"
"""
PUBLISHED = (
    b"model,data,threat,remaining,attack,clean,robust,source,kept_weights,note\n"
    b'x,digits,Linf:0.1,0.1,pgd,0.9,0.5,mine,12,"a, note"\ny,cifar10,L2:0.5,,autoattack,,0.25,theirs,,\n'
)
ENTRY = json.dumps(
    {"name": "A paper", "authors": "A, B", "venue": "X 2020", "dataset": "cifar10", "architecture": "ResNet-18",
     "eps": "8/255", "clean_acc": "87.50", "autoattack_acc": "50.10", "external": "49.9", "additional_data": True,
     "unreliable": False, "footnote": "a <b>note</b>", "link": "https://example.org", "remaining": 0.1,
     "kept_weights": 100, "threat": "Linf"}
).encode()  # fmt: skip


@cache
def tickets() -> tuple[bytes, bytes]:
    """Return the files of a ticket and of a checkpoint."""
    settings: dict[str, Any] = {"network": "conv2", "width": 0.05, "data": "digits:train:128", "epochs": 1}
    ticket = rstbench.draw(0.5, method="random", **settings)
    net = ticket.module()
    checkpoint = Checkpoint(
        ticket.recipe,
        ticket.spec,
        "1",
        net.state_dict(),
        ticket.total_weights,
        ticket.total_weights,
        {"a": 1},
    )
    return _saved(ticket, "t.safetensors"), _saved(checkpoint, "c.safetensors")


@cache
def weights() -> tuple[bytes, bytes, bytes]:
    """Return the weights of that ticket's network as torch.save writes them, before torch 1.6 and now, and as
    safetensors."""
    from safetensors.torch import save

    state = {name: tensor.clone() for name, tensor in rstbench_ticket().module().state_dict().items()}
    old, new = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return old.getvalue(), new.getvalue(), save(state)


@cache
def rstbench_ticket() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        path.write_bytes(tickets()[0])
        return Ticket.load(path)


def _saved(artifact: Any, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


@cache
def run_files() -> dict[str, bytes]:
    """Return the files of a run by name: manifest, evidence, packed and not, examples, a table, logs."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        evidence = write_hand_run(root)
        write(evidence, root)
        files = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
        }
        pack_folder(root)
        files["results.zip"] = (root / "results.zip").read_bytes()
    keys = [name[8:-6] for name in files if name.startswith("results/")]
    files[".agenda"] = b"".join(
        json.dumps(line).encode() + b"\n"
        for line in ({"began": 1.7e9, "networks": ["tickets/a.safetensors"]}, {"making": ""},
                     {"asking": [{"attack": "pgd", "keys": keys[:3]}]}, {"fault": "x raised"}, {"ended": ""})
    )  # fmt: skip
    files["tickets/costs.jsonl"] = (
        b'{"name": "a", "seconds": 1.5, "peak_mib": null, "device": "cpu", "threads": 1, "resumed": false}\n'
    )
    return {name: content for name, content in files.items() if not name.startswith(".lock")}


@cache
def arrays() -> bytes:
    """Return an archive of images and labels."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4), layout=np.array("nchw"))
    return buffer.getvalue()


@cache
def pictures() -> tuple[bytes, ...]:
    """Return an image of 6x5 pixels in each format that image folders may hold."""
    levels = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    found = []
    for kind, image in (
        ("PNG", Image.fromarray(levels)),
        ("PNG", Image.fromarray(levels).convert("P")),
        ("PNG", Image.fromarray(levels[:, :, 0].astype(np.uint16) * 300)),
        ("JPEG", Image.fromarray(levels)),
        ("TIFF", Image.fromarray(levels[:, :, 0].astype(np.uint16))),
        ("BMP", Image.fromarray(levels)),
        ("PPM", Image.fromarray(levels)),
        ("WEBP", Image.fromarray(levels)),
        ("GIF", Image.fromarray(levels)),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found.append(buffer.getvalue())
    return tuple(found)


@cache
def mnist() -> tuple[bytes, bytes]:
    """Return raw images and labels in MNIST's format."""
    images = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (3, 28, 28)) + bytes(3 * 784)
    return images, bytes([0, 0, 8, 1]) + (3).to_bytes(4, "big") + bytes([0, 1, 2])


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()


@cache
def onnx_graph() -> bytes:
    """Return a linear network as an ONNX graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.zeros((64, 10), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@cache
def exported_program() -> bytes:
    """Return the same as a program of torch.export."""
    import warnings

    buffer, batch = io.BytesIO(), torch.export.Dim("batch")
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(
            torch.export.export(_net(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},)), buffer
        )
    return buffer.getvalue()


@cache
def hub_config() -> bytes:
    """Return the `config.json` of a hub folder of this tool."""
    ticket = rstbench_ticket()
    about = {"network": ticket.spec.to_dict(), "remaining": 0.5, "kept_weights": 10, "total_weights": 20}
    return json.dumps({"rstbench": about}).encode()
