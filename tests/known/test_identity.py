"""Digests that committed evidence answers to: they do not change, whatever is learnt to be read besides."""

from __future__ import annotations

import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from rstbench.evidence.pack import FILE as PACK
from rstbench.evidence.packing import pack_folder
from rstbench.models.identity import module_digest
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build
from rstbench.reports.lookup import Evidence
from rstbench.reports.tables import write

BOARDS = Path(__file__).parent.parent.parent / "leaderboards"


def network(name, norm="batch", **more):
    return build(NetworkSpec(name, (3, 32, 32), 10, 0.05, norm, **more))


LAYERS = {
    "stack": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    ),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "lstm": lambda: nn.LSTM(4, 3, bidirectional=True),
    "lists": lambda: nn.ModuleDict(
        {
            "a": nn.ModuleList([nn.Linear(2, 2)]),
            "p": nn.ParameterList([torch.zeros(2)]),
            "d": nn.ParameterDict({"x": torch.zeros(3)}),
        }
    ),
    "embedding": lambda: nn.EmbeddingBag(5, 3),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
    "triplet": lambda: nn.TripletMarginWithDistanceLoss(),
    "conv4": lambda: network("conv4"),
    "conv4 affine": lambda: network("conv4", "affine"),
    "vgg16": lambda: network("vgg16", "none"),
    "resnet18": lambda: network("resnet18"),
    "resnet50": lambda: network("resnet50", "affine"),
    "preactresnet18": lambda: network("preactresnet18"),
    "mobilenetv2": lambda: network("mobilenetv2"),
    "normalised": lambda: build(
        NetworkSpec("conv2", (3, 8, 8), 10, 0.05, normalize="cifar10", last_norm=True)
    ),
}  # fmt: skip
GOLDEN = {
    "stack": "bf65a21d37c82d8efdbc2747298c15100fb9aff1a9d43214d3ea1be16abfb0cf",
    "convolution": "dc3f55bcf81b33037a7aae2877ade66654efd27df8e07339a094e67a8d48652f",
    "attention": "e7dac034ac53e68a6d8b3a9f60b0170be0f784207b996dd49b398be9adb1cae1",
    "lstm": "febd5ac1db2428749c7a60a58ef351e21f018ef33e2b59d5102696b854152301",
    "lists": "8cb64634bd92a06bd4e9ce815625d7a43caaedab4ed1b860acc73b91668720df",
    "embedding": "e386536fb00e4bbf7b56d5a98f0e9caa53e4e86874f389750101e5e1e6e63c3c",
    "weight norm": "1a045f38d6b5d047ed2ec2b8c12371d3abd97fd7396194cc91faaa760079ce03",
    "triplet": "8e5abe672b9d0aadaab0f6e2d058ac0e07eeff048d7835ed993cce7c2161cc84",
    "conv4": "4ea13cdf752a008d245552f0d1f210b40394244ec6c61ea840c04aaa12b48413",
    "conv4 affine": "9c181cdf6b173251a2bc6370f0de447754e8aa4ec2efd0cb61e2837ecdaba0fa",
    "vgg16": "83c01497a277f9078b2cb40235dffdfa2a65a168d3d8230868b37188a08fda30",
    "resnet18": "d57989538abc0de0b72ad8294fd3d23b82003b9c74b375ef72a72232d26d1e25",
    "resnet50": "544313c190e561b18638f65d727c6873267b83700dc3fbec16f2a4611c71b724",
    "preactresnet18": "9abf74746bd8241d1159dfd571dbf3125f477677d0e86ea38465a6e531c6fac8",
    "mobilenetv2": "08e1bb6c9887796ece37821af236cdd3a167a0992d2b3264a33acca87f697929",
    "normalised": "6a9845c354be28de4865ee32265817edc86a1a789282f5dcfa3a2a8edbcfd2be",
}


def filled(module):
    """The module with eighths for weights, the same on every machine."""
    place = 0
    with torch.no_grad():
        for _, tensor in sorted(module.state_dict().items()):
            if tensor.is_floating_point():
                values = torch.arange(place, place + tensor.numel()) % 251
                tensor.copy_((values.to(tensor.dtype) / 8).reshape(tensor.shape))
            else:
                tensor.zero_()
            place += tensor.numel()
    return module


@pytest.mark.parametrize("name", GOLDEN)
def test_the_digest_of_an_ordinary_module_is_what_it_was(name):
    assert module_digest(filled(LAYERS[name]())) == (GOLDEN[name], True)


def committed():
    """(file, digest) of every committed ticket and checkpoint, as the run that made it wrote it down."""
    for study in sorted(BOARDS.glob("**/study.toml")):
        cards = tomllib.loads(study.read_text())["evidence"]["cards"]
        for digest, card in cards.items():
            for kind, folder in (("ticket", "tickets"), ("checkpoint", "checkpoints")):
                for file in sorted((study.parent / folder).glob(f"{card['name']}*.safetensors")):
                    if file.stem in (card["name"], f"{card['name']}-seed0"):
                        yield pytest.param(kind, file, digest, id=f"{study.parent.name}/{file.stem}")


@pytest.mark.parametrize(("kind", "file", "digest"), list(committed()))
def test_a_committed_model_still_answers_to_its_digest(kind, file, digest):
    assert load_reference(f"{kind}:{file}").digest == digest


def test_there_are_committed_models():
    assert len(list(committed())) > 20


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "board",
    ["digits", pytest.param("switch/digits", marks=SLOW), pytest.param("switch/mnist", marks=SLOW)],
)
def test_a_copy_of_a_committed_study_asks_nothing_new(cli, tmp_path, board, request):
    environment = {}
    if board.endswith("mnist"):
        environment["RSTBENCH_DATA"] = str(request.getfixturevalue("data_root"))
    shutil.copytree(BOARDS / board, tmp_path / "copy")
    batch = tomllib.loads((BOARDS / board / "study.toml").read_text())["run"]["batch"]
    copy = tmp_path / "copy"
    evidence = (copy / PACK).read_bytes()
    done = cli("evaluate", copy / "study.toml", "--out", copy, "--batch-size", batch, env=environment)
    assert done.returncode == 0, done.stderr
    assert not (copy / "results").exists()
    assert (copy / PACK).read_bytes() == evidence


@pytest.mark.parametrize("form", ["packed", "files", "packed again"])
@pytest.mark.parametrize("study", sorted(BOARDS.glob("**/study.toml")), ids=lambda path: path.parent.name)
def test_the_tables_of_a_committed_study_follow_from_its_evidence(study, form, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(study.parent, copy, ignore=shutil.ignore_patterns("*.png", "*.svg", "*.safetensors"))
    tables = {path.name: path.read_bytes() for path in copy.glob("*.csv")}
    assert "leaderboard.csv" in tables
    for path in copy.glob("*.csv"):
        path.unlink()
    if form != "packed":
        with zipfile.ZipFile(copy / PACK) as pack:
            pack.extractall(copy / "results")
        (copy / PACK).unlink()
    if form == "packed again":
        pack_folder(copy)
        with zipfile.ZipFile(copy / PACK) as pack, zipfile.ZipFile(study.parent / PACK) as committed:
            members = [[(m.filename, m.date_time, m.CRC) for m in f.infolist()] for f in (pack, committed)]
        assert members[0] == members[1]
    write(Evidence.read(copy), copy)
    assert {path.name: path.read_bytes() for path in copy.glob("*.csv")} == tables


def test_the_committed_studies_are_small():
    assert not list(BOARDS.glob("**/results/*.jsonl"))
    for study in BOARDS.glob("**/study.toml"):
        committed = [path for path in study.parent.rglob("*") if path.is_file() and path.suffix != ".png"]
        assert sum(path.stat().st_size for path in committed) < 4_000_000, study
