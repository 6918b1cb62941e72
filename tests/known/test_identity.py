"""Digests that committed evidence answers to: they do not change, whatever is learnt to be read besides."""

from __future__ import annotations

import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import rstbench
from rstbench.evidence.pack import PACK_FILE as PACK
from rstbench.evidence.packing import pack_folder
from rstbench.models.identity import module_digest
from rstbench.models.normalise import normalised
from rstbench.models.sources.axis_order import InputLayout, Relaid
from rstbench.models.sources.input_shape import Unfit, adapt_channels
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


def holding(**attributes):
    """A plain module with attributes of the user's."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def shared():
    tickets = BOARDS / "digits" / "tickets"
    paths = [tickets / f"rst-{remaining}-seed0.safetensors" for remaining in ("0.2", "0.4")]
    return rstbench.shared_switch([rstbench.Ticket.load(path) for path in paths], [0.25, 0.75])


def in_order(form, last, single, dtype):
    return Relaid(filled(LAYERS["stack"]()), InputLayout((1, 8, 8), form, last, single, dtype))


# What this tool puts round a model, and what of its own a model may hold.
WRAPPED = {
    "cifar10": lambda: normalised(filled(network("conv4")), "cifar10"),
    "bytes": lambda: normalised(filled(network("conv4")), "bytes"),
    "constants": lambda: normalised(filled(network("resnet18")), "0.5+0.25+0.125/0.5"),
    "channels last": lambda: in_order((8, 8, 1), True, False, torch.float32),
    "one double image": lambda: in_order((64,), False, True, torch.float64),
    "other channels": lambda: adapt_channels(filled(network("conv4")), 1, "conv4"),
    "unfit": lambda: Unfit(filled(network("conv4")), (1, 8, 8), "it takes 3 channels, the images have 1"),
    "shared": shared,
    "shared member": lambda: shared().members[1],
    "public names": lambda: filled(
        holding(switch=rstbench.shared_switch, table=rstbench.read_table, kind=rstbench.Threat,
                attack=[rstbench.PGD, rstbench.AutoAttack], made=rstbench.Ticket, r2s=rstbench.Switch)
    ),
    "public values": lambda: filled(holding(_kept=[rstbench.Threat.parse("Linf:8/255"), rstbench.draw])),
}  # fmt: skip
GOLDEN_WRAPPED = {
    "cifar10": "b8a175634ed9c6c5f82b118da51d375cdcbab2bb714b428981e744db8964d39c",
    "bytes": "304b264d2b30a3f3605dc3b94abc4649f153800785092e7d85a9ad595c12b208",
    "constants": "675c0fa310aa74f2f3440f096be42c2b7c145ab02c68f82f8f0aedb184dd6cd5",
    "channels last": "59ad9d6c7572790513d531346ae412e30af5cab2ae435d42538f7a0a3dffef94",
    "one double image": "d6704489b1a696b9c0e0c471dd585a9c11604ca8bfb7d67164417086270dfb99",
    "other channels": "073491d3b4b2eee2572c8bd6027c7ab4b56ed867ed74ac2488e715d50e90bffd",
    "unfit": "38623672f329d1541451c34f96509f04ec3a940a07a4cfb102d38defa490a1ab",
    "shared": "597fa109a04eebf2654d6d49e6eb916169c1273b725e7ee5b917f599680e758b",
    "shared member": "6d09fc3103fff4278bac215726fe2a30f9288832feead0c9224cf57b0d6ac9b6",
    "public names": "a5a6d2e3faf81f71b5619ba3eec751284d5ce27853dcf8f80162d386061f9ef5",
    "public values": "bf862f7eb8e883562472d7a1bef38f3bd5409e5cbcf277cef97522105c07ecaf",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_digest_of_a_wrapped_module_is_what_it_was(name):
    assert module_digest(WRAPPED[name]()) == (GOLDEN_WRAPPED[name], True)


TICKET = "ticket:{0}/tickets/rst-0.2-seed0.safetensors"
SWITCH = "switch:{0}/tickets/rst-0.2-seed0.safetensors+{0}/tickets/rst-0.4-seed0.safetensors"
NATURAL = "checkpoint:{0}/checkpoints/dense-natural-seed0.safetensors"
REFERENCES = {
    TICKET + "[normalize=half]": "5130bf6edb47df5f59cf9f9eb0a2a80c262e4580d4908aeb0d53f6002ca8fae6",
    TICKET + "[normalize=bytes]": "f3981399e8b93db49594219f71fdfb9cf66df6b8b2a5ded605ac7853faa771dc",
    NATURAL + "[normalize=mnist]": "f023ffc7b0129da15fdc2898d3d70d26167bdcddca44d7cf3e879d0aa3098d33",
    SWITCH: "0514b3d67f983fd9814cc019d8d466848dbb5911aef1d150ab24add039cff3a1",
    SWITCH + "[weights=0.25+0.75]": "eb2297a800e3031d9034692b441bf1d2028dc48783d12c361a1e7b5e675f1b38",
}


@pytest.mark.parametrize("text", REFERENCES)
def test_a_reference_with_options_answers_to_its_digest(text):
    assert load_reference(text.format(BOARDS / "digits")).digest == REFERENCES[text]


def weights_with_scores(path):
    """A file of weights and scores of a conv2, as the published code of tickets saves them."""
    spec = NetworkSpec("conv2", (1, 8, 8), 10, 0.1)
    state = filled(build(spec)).state_dict()
    for name in [name for name in state if name.endswith("weight")]:
        scores = torch.arange(state[name].numel()) * 7919 % 100_003  # all of them different
        state[name.replace("weight", "scores")] = scores.float().reshape(state[name].shape)
    torch.save(dict(state), path)
    return path


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ("", "325ff2fc0609257893bf0ef35eb967d28ca2a1871644de41b8ca49c38f503bac"),
        (",normalize=bytes", "0158424d612c9386c1cee517ff5cd26223fef3dd485d0ad55b9960e1750009aa"),
    ],
)
def test_a_ticket_of_other_code_answers_to_its_digest(tmp_path, options, digest):
    file = weights_with_scores(tmp_path / "other.pt")
    text = f"weights:{file}[arch=conv2,width=0.1,classes=10,shape=1x8x8,remaining=0.3{options}]"
    assert load_reference(text).digest == digest


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
