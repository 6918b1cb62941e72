"""Files of weights: their kinds, those of libraries, and what is damaged in them."""

from __future__ import annotations

import json
import re
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rstbench.errors import BadFile, BadRequest
from rstbench.models.checkpoints.csr import to_csr
from rstbench.models.checkpoints.foreign import read_masked_state
from rstbench.models.checkpoints.formats import read_weight_file
from rstbench.models.checkpoints.state_dict import read_state_dict
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build


def test_timm_takes_the_average(tmp_path):
    import timm

    torch.manual_seed(0)
    raw, average = (timm.create_model("resnet10t", num_classes=10) for _ in range(2))
    torch.save({"state_dict": raw.state_dict(), "state_dict_ema": average.state_dict()}, tmp_path / "l.pth")
    theirs = timm.create_model("resnet10t", num_classes=10, checkpoint_path=f"{tmp_path}/l.pth")
    for text in (f"timm:resnet10t[checkpoint={tmp_path}/l.pth]",
                 f"weights:{tmp_path}/l.pth[arch=timm:resnet10t,classes=10]"):  # fmt: skip
        found = load_reference(text)
        assert found.module.conv1[0].weight.equal(theirs.conv1[0].weight)
        assert "key=state_dict_ema" in found.info.name
        plain = load_reference(f"{text[:-1]},key=state_dict]")
        assert plain.module.conv1[0].weight.equal(raw.conv1[0].weight)
    with pytest.raises(BadRequest, match=r"goes with NAME\[checkpoint=FILE\]"):
        load_reference("timm:resnet10t[key=state_dict]")
    with pytest.raises(BadRequest, match="2 networks: state_dict, state_dict_ema"):
        load_reference(f"weights:{tmp_path}/l.pth[arch=torchvision:resnet18,classes=10]")


def test_a_normalisation_in_timms_arguments_can_be_said(tmp_path):
    """What the refusal says to add is enough: the normalisation is put before the network."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10).eval()
    content = {"state_dict": net.state_dict(), "args": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    torch.save(content, tmp_path / "l.pth")
    text = f"timm:resnet10t[checkpoint={tmp_path}/l.pth"
    with pytest.raises(BadRequest, match=r"normalises by its args\.mean and args\.std") as refusal:
        load_reference(f"{text}]")
    more = re.search(r"add \[(.*?)\]", str(refusal.value))[1]
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(load_reference(f"{text},{more}]").module(x), net((x - 0.5) / 0.25), atol=1e-5)


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_in_a_folder_of_the_hub(tmp_path, wrap):
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10).eval()
    about = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 64, 64]}
    config = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({wrap + n: t for n, t in net.state_dict().items()}, tmp_path / "pytorch_model.bin")
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(load_reference(f"hub:{tmp_path}").module(x), net((x - 0.5) / 0.25), atol=1e-5)


def test_masks_of_library_networks_are_counted(tmp_path):
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=6).eval()
    state = net.state_dict()
    mask = (torch.rand(state["fc.weight"].shape) < 0.5).float()
    torch.save({**state, "fc.weight_mask": mask}, tmp_path / "t.pth")
    net.fc.weight.data *= mask
    for text in (f"timm:resnet10t[checkpoint={tmp_path}/t.pth]",
                 f"weights:{tmp_path}/t.pth[arch=timm:resnet10t,classes=6]"):  # fmt: skip
        found, x = load_reference(text), torch.rand(1, 3, 64, 64)
        assert torch.allclose(found.module(x), net(x), atol=1e-6)
        assert found.info.total_weights - found.info.kept_weights == int((1 - mask).sum())


def test_quantised_weights_are_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.quantize_per_tensor(torch.rand(3, 3), 0.1, 0, torch.qint8)
        packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 2)), {nn.Linear})
    torch.save({"0.weight": whole}, tmp_path / "q.pt")
    torch.save(packed.state_dict(), tmp_path / "p.pt")
    for name, message in (("q.pt", "0.weight is quantised"), ("p.pt", "_packed_params.* is quantised")):
        with pytest.raises(BadFile, match=message):
            read_state_dict(tmp_path / name)


def test_options_of_our_networks_go_with_them(tmp_path):
    torch.save({}, tmp_path / "c.pt")
    with pytest.raises(BadRequest, match="width, bias go with networks of this tool"):
        load_reference(f"weights:{tmp_path}/c.pt[arch=timm:resnet10t,width=0.5,bias=last,classes=10]")


def test_other_kinds_of_files(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(tmp_path / "jit.pt")
        torch.export.save(torch.export.export(net, (torch.rand(1, 4),)), tmp_path / "program.pt2")
    torch.save(net, tmp_path / "module.pt")
    np.savez(tmp_path / "arrays.npz", weight=np.ones(3))
    heads = {
        "h5.pt": b"\x89HDF\r\n\x1a\n",
        "lfs.pt": b"version https://git-lfs.github.com",
        "page.pt": b"<!DOCTYPE html>",
        "graph.onnx": b"\x08\x07",
        "index.json": b'{"a": 1}',
    }
    for name, head in heads.items():
        (tmp_path / name).write_bytes(head)
    for name, message in (
        ("jit.pt", "TorchScript archive; torch.jit.load"),
        ("program.pt2", "a program of torch.export; use torch-export:FILE"),
        ("module.pt", r"more than tensors \(torch.nn.modules.container.Sequential\)"),
        ("arrays.npz", "archive of NumPy arrays"),
        ("h5.pt", "HDF5"),
        ("lfs.pt", "git lfs pull"),
        ("page.pt", "a web page"),
        ("graph.onnx", "use onnx:FILE"),
        ("index.json", "an index of several files"),
        (".", "is a folder; name the file"),
    ):
        with pytest.raises(BadFile, match=message):
            read_weight_file(tmp_path / name)


def test_files_are_told_by_their_contents(tmp_path):
    """torch.save under the name of safetensors, and the other way."""
    state = {"a.weight": torch.rand(3, 2), "b": torch.rand(4)}
    torch.save(state, tmp_path / "zip.safetensors")
    torch.save(state, tmp_path / "pickle.safetensors", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "plain.pt")
    for name in ("zip.safetensors", "pickle.safetensors", "plain.pt"):
        found = read_state_dict(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(found[key].equal(state[key]) for key in state)


def test_files_that_are_not_whole_and_packed_ones(tmp_path):
    state = {"a.weight": torch.rand(300, 200)}
    torch.save(state, tmp_path / "whole.pt")
    save_file(state, tmp_path / "whole.safetensors")
    for name, size in (("whole.pt", 20000), ("whole.safetensors", 20000), ("whole.safetensors", 30)):
        (tmp_path / f"{size}-{name}").write_bytes((tmp_path / name).read_bytes()[:size])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for name, kind in (
        ("a.pth.tar", "w"),
        ("b.tar.bz2", "w:bz2"),
        ("c.tar.xz", "w:xz"),
        ("d.tar.gz", "w:gz"),
    ):
        with tarfile.open(tmp_path / name, kind) as packed:
            packed.add(tmp_path / "whole.pt", "whole.pt")
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as packed:
        packed.write(tmp_path / "whole.pt", "whole.pt")
    for name, message in (
        (
            "20000-whole.pt",
            "is damaged: an archive without its end, after 20000 bytes; fetch or write it again",
        ),
        ("20000-whole.safetensors", "is no whole safetensors file"),
        ("30-whole.safetensors", "is no whole safetensors file"),
        ("empty.pt", "is empty; fetch or write it again"),
        ("text.safetensors", "a Git LFS pointer"),
        ("a.pth.tar", "is a tar archive; unpack it first"),
        ("b.tar.bz2", "is a bzip2 archive; unpack it first"),
        ("c.tar.xz", "is an xz archive; unpack it first"),
        ("d.tar.gz", "is a gzip archive; unpack it first"),
        ("e.zip", "is a zip archive of whole.pt; unpack it first"),
    ):
        with pytest.raises(BadFile, match=message) as refused:
            read_weight_file(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_a_ticket_is_no_bare_state_dict(ticket_files):
    with pytest.raises(BadFile, match="is a ticket of this tool; use ticket:FILE"):
        read_state_dict(ticket_files[0])


@pytest.mark.parametrize(
    ("part", "value"),
    [("col_indices", -1), ("crow_indices", 0), ("values", None)],
)
def test_compressed_weights_that_do_not_fit_together(tmp_path, part, value):
    parts = to_csr({"a.weight": torch.eye(60)})
    assert "a.weight.values" in parts
    if value is None:
        del parts[f"a.weight.{part}"]
    else:
        parts[f"a.weight.{part}"] = torch.full_like(parts[f"a.weight.{part}"], value)
    torch.save(parts, tmp_path / "c.pt")
    with pytest.raises(BadFile, match="its parts do not fit together"):
        read_state_dict(tmp_path / "c.pt")


def test_a_bias_leaves_the_files_of_other_networks_as_they_were():
    assert "bias" not in NetworkSpec("conv2", (1, 8, 8), 10).to_dict()
    spec = NetworkSpec("resnet18", (3, 8, 8), 10, 0.1, bias="last")
    assert (spec.to_dict()["bias"], str(spec)) == ("last", "resnet18[width=0.1,bias=last]")
    assert build(spec).fc.bias.tolist() == [0.0] * 10
    with pytest.raises(BadRequest, match="no bias named 'all'"):
        NetworkSpec("conv2", (1, 8, 8), 10, bias="all")


def test_scores_whose_rule_no_name_tells():
    scores = torch.tensor([[0.1, -0.9], [0.5, -0.2]])
    state = {"fc.weight": torch.ones(2, 2), "fc.mask_scores": scores}
    with pytest.raises(BadRequest, match=r"\[scores=signed\] where the largest are kept, \[scores=abs\]"):
        read_masked_state(state, "0.5")
    signed, size = (
        read_masked_state(state, "0.5", scores=rule).masks["fc.weight"] for rule in ("signed", "abs")
    )
    assert signed.tolist() == [[True, False], [True, False]]
    assert size.tolist() == [[False, True], [True, False]]
    published = {"fc.weight": torch.ones(2, 2), "fc.popup_scores": scores}
    assert read_masked_state(published, "0.5").masks["fc.weight"].equal(size)
    assert read_masked_state(published, "0.5", scores="signed").masks["fc.weight"].equal(signed)
    with pytest.raises(BadRequest, match="no rule for scores named 'top'"):
        read_masked_state(state, "0.5", scores="top")
    with pytest.raises(BadRequest, match="fc has scores and a mask"):
        read_masked_state({**state, "fc.weight_mask": torch.ones(2, 2)}, "0.5", scores="abs")
    with pytest.raises(BadRequest, match="go with files that hold scores"):
        read_masked_state({"fc.weight": torch.ones(2, 2)}, scores="abs")
