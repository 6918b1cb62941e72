"""Every format that `export` writes is a model reference again, and is measured as what it came from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rstbench.data import load
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.plugins import BUILTIN
from rstbench.study.export import export_model
from rstbench.tickets.checkpoint import train
from rstbench.tickets.init import random_weights
from rstbench.tickets.methods.search import Search
from rstbench.training.epochs import TrainSplit
from rstbench.training.recipe import recipe_for

WIDTHS = {"conv2": 0.1, "resnet18": 0.05}
DATA = "digits:test:100"


def made_by_this_tool(kind, network, normalize, norm, split):
    """A ticket that was drawn, or a checkpoint that was trained, for digits."""
    settings = {"network": network, "width": WIDTHS[network], "norm": norm, "normalize": normalize,
                "data": "digits:train:128", "epochs": 4 if network == "conv2" else 2,
                "batch": 16, "adversary": "none"}  # fmt: skip
    recipe = recipe_for(settings)
    spec = NetworkSpec(network, (1, 8, 8), 10, WIDTHS[network], norm, normalize=normalize)
    if kind == "checkpoint":
        return train(spec, split, recipe)[0]
    from rstbench.tickets.methods.edge_popup import edge_popup

    weights = random_weights(prunable(build(spec)), recipe.init, recipe.seed)
    return edge_popup(Search(spec, weights, "0.4", split, recipe))[0]


def written(made, folder, network, normalize, norm):
    """{reference: (the format it came from, whether it is the same to the last bit)}."""
    options = f"arch={network},width={WIDTHS[network]},norm={norm}"
    options += f",normalize={normalize}" if normalize else ""
    found = {}
    forms = {"plain.pt": {}, "plain.safetensors": {}, "small.pt": {"compressed": True},
             "small.safetensors": {"compressed": True}, "folded.pt": {"fold": True}}  # fmt: skip
    for name, changed in forms.items():
        stem, _, suffix = name.partition(".")
        (folder / suffix).mkdir(exist_ok=True)
        export_model(made, "state_dict", folder / suffix / name, **changed)
        found[f"file:{folder}/{suffix}/{stem}_network.py:network"] = "state_dict", stem != "folded"
        if stem != "folded":
            found[f"weights:{folder}/{suffix}/{name}[{options}]"] = "state_dict", True
    for fold in (False, True):
        hub = folder / f"hub-{fold}"
        export_model(made, "hub-folder", hub, fold=fold)
        found[f"hub:{hub}"] = "hub-folder", not fold
        found[f"file:{hub}/network.py:network"] = "hub-folder", not fold
        export_model(made, "torch-export", folder / f"{fold}.pt2", fold=fold)
        found[f"torch-export:{folder}/{fold}.pt2"] = "torch-export", False
    export_model(made, "onnx", folder / "net.onnx")
    found[f"onnx:{folder}/net.onnx"] = "onnx", False
    return found


def clean_bits(folder):
    """{name of a model: its bits on clean images} of a run."""
    found = {}
    for file in (folder / "results").glob("*.jsonl"):
        head, *tallies = (json.loads(line) for line in file.read_text().splitlines())
        if head["trial"]["attack"] == "clean":
            found[head["cards"][head["trial"]["target"]]["name"]] = "".join(one["bits"] for one in tallies)
    return found


CASES = [
    pytest.param("ticket", "conv2", "", "batch", id="ticket-stack"),
    pytest.param("checkpoint", "resnet18", "half", "affine", marks=pytest.mark.slow),
    pytest.param("checkpoint", "conv2", "0.3/0.35", "affine", marks=pytest.mark.slow),
    pytest.param("checkpoint", "conv2", "", "none", marks=pytest.mark.slow),
    pytest.param("ticket", "conv2", "half", "batch", marks=pytest.mark.slow),
    pytest.param("ticket", "resnet18", "", "batch", marks=pytest.mark.slow),
    pytest.param("ticket", "resnet18", "half", "batch", marks=pytest.mark.slow),
    pytest.param("checkpoint", "resnet18", "", "batch", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "network", "normalize", "norm"), CASES)
def test_what_is_exported_is_measured_as_itself(tmp_path, cli, split, kind, network, normalize, norm):
    made = made_by_this_tool(kind, network, normalize, norm, split)
    made.save(tmp_path / "own.safetensors")
    own = f"{kind}:{tmp_path}/own.safetensors"
    found = written(made, tmp_path, network, normalize, norm)
    if kind == "ticket":
        export_model(made, "ticket", tmp_path / "again.safetensors")
        found[f"ticket:{tmp_path}/again.safetensors"] = "ticket", True
    formats = {form for form, _ in found.values()}
    assert formats | {"ticket", "robustbench"} == set(BUILTIN["exports"])

    images = load(DATA)
    x, y = images.at(slice(None))
    logits = load_reference(own).module(x)
    bits = "".join("1" if right else "0" for right in logits.argmax(1) == y)
    assert 0 < bits.count("1") < len(bits)  # images that tell models apart
    for reference, (_, exact) in found.items():
        entry = load_reference(reference, images)
        again = entry.module(x)
        assert (
            again.equal(logits)
            if exact
            else torch.allclose(again, logits, atol=1e-4 * float(logits.abs().max()))
        )
        assert entry.resumable, reference
    done = cli("evaluate", own, *found, "--data", DATA, "--threat", "Linf:0.1", "--attack", "pgd:steps=1",
               "--out", "run", "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = clean_bits(tmp_path / "run")
    assert len(measured) > 5  # those that are alike to the last bit share their evidence
    assert set(measured.values()) == {bits}


def test_a_robustbench_folder_is_measured_as_itself(tmp_path, cli):
    """It knows CIFAR's data alone; the network is its `network.py`."""
    random = np.random.RandomState(0)
    np.savez(tmp_path / "d.npz", x=random.randint(0, 256, (40, 3, 32, 32), dtype=np.uint8),
             y=np.arange(40) % 10)  # fmt: skip
    images = load(f"npz:{tmp_path}/d.npz")
    recipe = recipe_for({"network": "conv2", "width": 0.1, "data": "cifar10:train", "threat": "Linf:8/255",
                         "epochs": 1, "batch": 16, "adversary": "none"})  # fmt: skip
    made = train(NetworkSpec("conv2", (3, 32, 32), 10, 0.1), TrainSplit(images, images), recipe)[0]
    made.save(tmp_path / "own.safetensors")
    export_model(str(tmp_path / "own.safetensors"), "robustbench", tmp_path / "zoo")
    references = f"checkpoint:{tmp_path}/own.safetensors", f"file:{tmp_path}/zoo/network.py:network"
    done = cli("evaluate", *references, "--data", f"npz:{tmp_path}/d.npz", "--attack", "pgd:steps=1",
               "--threat", "Linf:8/255", "--out", "run", "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    x, _ = images.at(slice(None))
    one, other = (load_reference(reference).module(x) for reference in references)
    assert one.equal(other)
    measured = clean_bits(tmp_path / "run")
    assert len(measured) == 2
    assert len(set(measured.values())) == 1
