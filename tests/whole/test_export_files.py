"""Exports that are refused, that replace files, and that are compressed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rstbench.errors import BadFile, BadRequest
from rstbench.models.checkpoints.csr import to_csr, to_dense
from rstbench.models.exports.bundle import ExportBundle
from rstbench.models.exports.python_source import network_source
from rstbench.models.exports.robustbench import model_info
from rstbench.models.wrapper import load_reference
from rstbench.study.export import export_model
from tests.whole.export_tickets import NETWORKS, alone, ticket_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "jpeg"], "no export format named 'jpeg'"),
        (["--to", "onnx", "--compressed"], "--compressed goes with --to state_dict"),
        (
            ["--to", "robustbench"],
            "cifar100, imagenet under Linf and L2, this is of digits Linf",
        ),
        (["--results", "."], "study.toml"),
    ],
)
def test_exports_that_are_refused(tmp_path, cli, arguments, message):
    ticket_of(NETWORKS["conv2"]).save(tmp_path / "t.safetensors")
    done = cli("export", "t.safetensors", "--out", "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.safetensors"]


def test_only_an_earlier_export_is_replaced(tmp_path):
    ticket_of(NETWORKS["conv2"]).save(tmp_path / "t.safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadRequest, match="is no earlier export"):
        export_model(str(tmp_path / "t.safetensors"), "hub-folder", tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text('{"architecture": "of a clone of another repository"}')
    with pytest.raises(BadRequest, match="is no earlier export"):
        export_model(str(tmp_path / "t.safetensors"), "hub-folder", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    export_model(str(tmp_path / "t.safetensors"), "hub-folder", tmp_path / "hub")
    (tmp_path / "hub" / ".git").write_text("of a clone")
    (tmp_path / "hub" / "network.py").write_text("changed")
    export_model(str(tmp_path / "t.safetensors"), "hub-folder", tmp_path / "hub")
    assert (tmp_path / "hub" / ".git").read_text() == "of a clone"
    assert "changed" not in (tmp_path / "hub" / "network.py").read_text()
    with pytest.raises(BadRequest, match="is the model's own file"):
        export_model(str(tmp_path / "t.safetensors"), "state_dict", tmp_path / "t.safetensors")
    with pytest.raises(BadRequest, match="neither a ticket nor a checkpoint"):
        export_model("torchvision:squeezenet1_1[classes=2]", "onnx", tmp_path / "s.onnx")


def test_files_of_ones_own_are_kept(tmp_path):
    ticket = ticket_of(NETWORKS["conv2"])
    for name in ("mine.txt", "net_network.py"):
        (tmp_path / name).write_text("mine")
    for name, form in (("mine.txt", "state_dict"), ("net.pt", "state_dict"), ("mine.txt", "onnx"),
                       ("mine.txt", "torch-export"), ("mine.txt", "ticket")):  # fmt: skip
        with pytest.raises(BadRequest, match=r"exists"):
            export_model(ticket, form, tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.txt", "net_network.py"]
    assert {file.read_text() for file in tmp_path.iterdir()} == {"mine"}
    for _ in range(2):  # an earlier export is replaced
        export_model(ticket, "state_dict", tmp_path / "own.pt")


@pytest.mark.parametrize("name", ["measure", "class", "torch", 'a "quoted" {name}'])
def test_a_robustbench_folder_holds_all_its_files_whatever_its_name(tmp_path, name):
    ticket = ticket_of(NETWORKS["conv4"], data="cifar10:train", threat="Linf:8/255")
    files = export_model(ticket, "robustbench", tmp_path / name)
    assert len(files) == len(set(files)) == 5
    assert all(file.is_file() for file in files)
    x = torch.rand(2, 3, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    found = alone(tmp_path, f"sys.path.insert(0, {name!r})\nfrom network import network\ny = network()(x)")
    assert found.equal(ticket.module()(x))
    compile((tmp_path / name / "measure.py").read_text(), "measure.py", "exec")


def test_only_test_images_make_model_info(tmp_path):
    ticket = ticket_of(NETWORKS["conv4"], data="cifar10:train", threat="Linf:8/255")
    parcel = ExportBundle("a", ticket.module(), ticket)
    row = {"threat": "Linf:8/255", "data": "cifar10:test", "images": 1000, "clean": 0.5, "autoattack": 0.25,
           "worst_low": 0.2, "worst_high": 0.3}  # fmt: skip
    others = [{**row, "data": "cifar10:train"}, {**row, "data": "npz:x"}, {**row, "threat": "L2:0.5"}]
    empty = model_info(replace(parcel, rows=others))
    assert (empty["clean_acc"], empty["autoattack_acc"]) == (None, None)
    assert "Measured" not in empty["footnote"]
    full = model_info(replace(parcel, rows=[*others, row], fold=FOLD))
    assert (full["clean_acc"], full["autoattack_acc"], full["eps"]) == ("50.00", "25.00", "8/255")
    assert "at most 0.001 on noise. Measured by rstbench on the first 1000 test images" in full["footnote"]


FOLD = {"largest_logit_difference": 0.001, "images": "noise"}


def test_compression_by_hand():
    weight = torch.zeros(3, 200, 3, 3)
    weight[0, 1, 2, 2], weight[2, 0, 0, 1] = 5.0, -1.0
    small = to_csr({"w": weight, "b": torch.ones(3), "dense": torch.ones(2, 2)})
    assert small["w.values"].tolist() == [5, -1]
    assert small["w.crow_indices"].tolist() == [0, 1, 1, 2]
    assert small["w.col_indices"].tolist() == [17, 1]
    assert small["w.col_indices"].dtype == torch.int16
    assert set(small) == {"w.values", "w.crow_indices", "w.col_indices", "w.shape", "b", "dense"}
    full = to_dense(small)
    assert full["w"].equal(weight)
    assert set(full) == {"w", "b", "dense"}
    del small["w.shape"]
    with pytest.raises(BadFile, match="w is compressed, and its parts do not fit"):
        to_dense(small)


def test_compressed_weights_come_back_in(tmp_path):
    ticket = ticket_of(NETWORKS["conv4"])
    ticket.save(tmp_path / "t.safetensors")
    sizes = {}
    for small in (False, True):
        path = tmp_path / f"{small}.safetensors"
        export_model(str(tmp_path / "t.safetensors"), "state_dict", path, compressed=small)
        sizes[small] = path.stat().st_size
        entry = load_reference(f"weights:{path}[arch=conv4,width=0.1,norm=none,shape=3x32x32,classes=10]")
        x = torch.rand(2, 3, 32, 32)
        assert entry.module(x).equal(ticket.module()(x))
    assert sizes[True] < 0.45 * sizes[False]  # a quarter of the weights, at six bytes instead of four
    assert "11.weight.values" in load_file(tmp_path / "True.safetensors")


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_written_as_python_is_said():
    with pytest.raises(BadRequest, match="cannot be written as Python"):
        network_source(Branch().eval(), "a branch", (1, 8, 8), "b.pt")
    with pytest.raises(BadRequest, match="MultiheadAttention"):
        network_source(
            nn.Sequential(nn.Flatten(2), nn.MultiheadAttention(8, 1)).eval(), "a", (1, 8, 8), "b.pt"
        )
