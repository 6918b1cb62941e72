"""Tickets out: every format, loaded where this package cannot be imported, gives the same logits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.checkpoints.csr import to_csr, to_dense
from rstbench.models.exports.bundle import ExportBundle
from rstbench.models.exports.python_source import network_source
from rstbench.models.exports.robustbench import model_info
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.study.export import export_model
from rstbench.tickets.init import random_weights, weights_digest
from rstbench.tickets.ticket import Ticket
from rstbench.training.recipe import recipe_for

ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rstbench":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, ".")
import torch

x = torch.load("x.pt")
"""


def ticket_of(spec, *, data="digits:train", threat="Linf:0.1", remaining="0.25"):
    """A ticket with a random mask, and the norm statistics of random images."""
    recipe = recipe_for(
        {"network": spec.name, "width": spec.width, "norm": spec.norm, "data": data, "threat": threat}
    )
    torch.manual_seed(0)
    weights = random_weights(prunable(build(spec)), recipe.init, recipe.seed)
    masks = {}
    for name, weight in weights.items():
        kept = -(-weight.numel() // 4)
        masks[name] = (torch.randperm(weight.numel()) < kept).view(weight.shape)
    ticket = Ticket(recipe, spec, remaining, masks, {}, weights_digest(weights), None, {})
    net = ticket.module().train()
    for _ in range(20):
        net(torch.rand(16, *spec.shape))
    buffers = {name: tensor for name, tensor in net.state_dict().items() if name not in weights}
    return replace(ticket, buffers=buffers)


NETWORKS = {
    "conv2": NetworkSpec("conv2", (1, 8, 8), 10, 0.1),
    "conv4": NetworkSpec("conv4", (3, 32, 32), 10, 0.1, "none"),
    "resnet18": NetworkSpec("resnet18", (3, 32, 32), 10, 0.1, "affine"),
    "wrn-28-10": NetworkSpec("wrn-28-10", (3, 32, 32), 10, 0.05),
}


@pytest.fixture(params=NETWORKS)
def made(request, tmp_path):
    """(folder, the ticket's file, images, its logits)."""
    ticket = ticket_of(NETWORKS[request.param])
    path = tmp_path / "t.safetensors"
    ticket.save(path)
    x = torch.rand(3, *ticket.spec.shape)
    torch.save(x, tmp_path / "x.pt")
    logits = ticket.module()(x)
    assert logits.std(0).min() > 0  # a network that tells images apart
    return tmp_path, path, x, logits


def alone(folder, code):
    """The logits that `code` puts into `y`, without this package."""
    done = subprocess.run(
        [sys.executable, "-c", f"{ALONE}{code}\ntorch.save(y, 'y.pt')"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "y.pt")


@pytest.mark.parametrize("name", ["net.pt", "my-net.safetensors"])
@pytest.mark.parametrize("small", [False, True])
def test_state_dicts_are_bit_identical(made, name, small):
    folder, path, _, logits = made
    files = export_model(str(path), "state_dict", folder / name, compressed=small)
    assert [file.name for file in files] == [name, f"{name[:-3].split('.')[0].replace('-', '_')}_network.py",
                                             f"{name}.json"]  # fmt: skip
    found = alone(folder, f"from {files[1].stem} import network\ny = network()(x)")
    assert found.equal(logits)
    assert "rstbench" not in files[1].read_text()


def test_programs_and_graphs_agree(made):
    folder, path, x, logits = made
    export_model(str(path), "torch-export", folder / "net.pt2")
    export_model(str(path), "onnx", folder / "net.onnx")
    found = alone(folder, "y = torch.export.load('net.pt2').module()(x)")
    assert torch.allclose(found, logits, atol=1e-5)
    found = alone(
        folder,
        "import onnxruntime\n"
        "y = torch.from_numpy(onnxruntime.InferenceSession('net.onnx').run(None, {'images': x.numpy()})[0])",
    )
    assert torch.allclose(found, logits, atol=1e-5)
    # And back in as a model that can be attacked.
    module = load_reference(f"onnx:{folder}/net.onnx").module
    images = x.clone().requires_grad_()
    assert torch.allclose(module(images), logits, atol=1e-5)
    (mine,) = torch.autograd.grad(module(images).sum(), images)
    (exact,) = torch.autograd.grad(load_reference(f"ticket:{path}").module(images).sum(), images)
    assert torch.allclose(mine, exact, atol=1e-4)


def test_hub_folders_run_alone_and_come_back(made):
    folder, path, x, logits = made
    for fold in (False, True):
        export_model(str(path), "hub-folder", folder / "hub", fold=fold)
        found = alone(folder, "sys.path.insert(0, 'hub')\nfrom network import network\ny = network()(x)")
        back = load_reference(f"hub:{folder}/hub")
        assert torch.allclose(found, logits, atol=1e-4 * float(logits.abs().max()))
        assert back.module(x).equal(found)
        assert back.info.remaining == 0.25
        if not fold:
            assert found.equal(logits)
    card = (folder / "hub" / "README.md").read_text()
    assert "library_name: pytorch" in card
    assert "Made against Linf:0.1 (each pixel moves by at most 0.1 of the pixel range)" in card
    assert "Not yet." in card


def test_folding_tells_what_it_changed(made):
    folder, path, _, logits = made
    export_model(str(path), "state_dict", folder / "f.pt", fold=True)
    found = alone(folder, "from f_network import network\ny = network()(x)")
    told = json.loads((folder / "f.pt.json").read_text())["fold"]
    has_norms = any(isinstance(m, nn.BatchNorm2d) for m in load_reference(f"ticket:{path}").module.modules())
    assert torch.allclose(found, logits, atol=1e-4 * float(logits.abs().max()))
    assert (told["largest_logit_difference"] > 0) == has_norms
    assert told["largest_logit_difference"] < 1e-4 * float(logits.abs().max())
    assert told["images"] in ("the first 100 images of digits:test", "100 images of uniform noise")


def test_a_robustbench_folder_is_benchmarked_by_robustbench(tmp_path, data_root):
    ticket = ticket_of(NETWORKS["conv4"], data="cifar10:train", threat="Linf:8/255")
    ticket.save(tmp_path / "rst-0.25.safetensors")
    files = export_model(str(tmp_path / "rst-0.25.safetensors"), "robustbench", tmp_path / "zoo")
    assert {str(file.relative_to(tmp_path / "zoo")) for file in files} == {
        "network.py",
        "models/cifar10/Linf/rst_0_25.pt",
        "model_info/cifar10/Linf/rst_0_25.json",
        "measure.py",
        "rstbench.json",
    }
    info = json.loads((tmp_path / "zoo/model_info/cifar10/Linf/rst_0_25.json").read_text())
    assert list(info) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
        "architecture", "eps", "clean_acc", "reported", "corruptions_acc", "corruptions_acc_3d",
        "corruptions_mce", "corruptions_mce_3d", "autoattack_acc", "footnote",
    ]  # fmt: skip
    assert info["eps"] == "8/255"
    measured = subprocess.run(
        [sys.executable, "-W", "ignore", "measure.py", str(data_root), "10"],
        cwd=tmp_path / "zoo", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    x, y = load("cifar10:test:10", data_root).at(slice(None))
    clean = float((ticket.module()(x).argmax(1) == y).float().mean())
    assert measured.stdout.splitlines()[-1].startswith(f"clean {clean:.4f} robust ")


def test_what_was_measured_goes_along(tmp_path, cli):
    ticket = ticket_of(NETWORKS["conv2"])
    (tmp_path / "run" / "tickets").mkdir(parents=True)
    file = tmp_path / "run" / "tickets" / "a.safetensors"
    ticket.save(file)
    done = cli("evaluate", f"ticket:{file}", "--attack", "pgd:steps=2", "--data", "digits:test:40",
               "--out", "run", "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    shutil.copy(file, tmp_path / "run" / "a.safetensors")
    assert "| 40 |" in export_card(cli, tmp_path, tmp_path / "run" / "a.safetensors")
    for results in ((), ("--results", "run")):
        out = cli("export", file, "--to", "hub-folder", "--out", "hub", *results)
        assert out.returncode == 0, out.stderr
        card = (tmp_path / "hub" / "README.md").read_text()
        assert "| data | threat | images | clean | pgd:steps=2 | worst |" in card
        assert "| digits:test | Linf:0.1 | 40 |" in card
    other = ticket_of(NETWORKS["conv4"])
    other.save(tmp_path / "b.safetensors")
    refused = cli("export", "b.safetensors", "--to", "hub-folder", "--out", "hub2", "--results", "run")
    assert refused.returncode == 2
    assert "has no answer about b" in refused.stderr
    assert not (tmp_path / "hub2").exists()


def export_card(cli, folder, file):
    assert cli("export", file, "--to", "hub-folder", "--out", "near").returncode == 0
    return (folder / "near" / "README.md").read_text()


def test_a_checkpoint_is_exported_like_a_ticket(tmp_path, cli):
    common = ["--network", "conv2", "--width", "0.1", "--data", "digits:train:64", "--epochs", "1", "--batch",
              "32", "--adversary", "none", "--quiet"]  # fmt: skip
    assert cli("train", *common, "--out", "c").returncode == 0
    done = cli("export", "c/conv2.safetensors", "--to", "onnx", "--out", "c.onnx")
    assert (done.returncode, done.stdout.split()) == (0, ["c.onnx", "c.onnx.json"])
    x = torch.rand(2, 1, 8, 8)
    (logits,) = onnxruntime.InferenceSession(tmp_path / "c.onnx").run(None, {"images": x.numpy()})
    exact = load_reference(f"checkpoint:{tmp_path}/c/conv2.safetensors").module(x)
    assert torch.allclose(torch.from_numpy(logits), exact, atol=1e-5)


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
