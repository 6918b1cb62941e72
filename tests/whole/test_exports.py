"""Tickets out: every format, loaded where this package cannot be imported, gives the same logits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import onnxruntime
import pytest
import torch
from torch import nn

from rstbench.data import load
from rstbench.models.wrapper import load_reference
from rstbench.study.export import export_model
from tests.whole.export_tickets import NETWORKS, alone, ticket_of


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name == "wrn-28-10")) for name in NETWORKS]
)
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
