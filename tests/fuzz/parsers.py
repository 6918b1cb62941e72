"""Every parser of the tool: how an input of it is made, and what reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import rstbench
from rstbench.certificates import CertificateSpec
from rstbench.data import load
from rstbench.evidence.examples import EXAMPLES_FILE, Examples
from rstbench.evidence.manifest import MANIFEST_FILE, Manifest
from rstbench.evidence.pack import PACK_FILE
from rstbench.limits import parse_size
from rstbench.networks.normalise import parse_normalisation
from rstbench.references import DataReference, Reference, parse_options
from rstbench.reports import published
from rstbench.study.reading import parse_study, read_study
from rstbench.tickets.checkpoint import Checkpoint
from rstbench.tickets.mask import parse_remaining
from rstbench.tickets.ticket import Ticket
from rstbench.training.recipe import recipe_for
from tests.fuzz import mutations as m
from tests.fuzz import seeds
from tests.fuzz.cases import (
    Make,
    damaged,
    damaged_arrays,
    damaged_picture,
    in_run,
    manifest_value,
    one_of,
    study,
    texts,
    torch_file,
)
from tests.fuzz.readers import (
    Run,
    arguments,
    attack,
    entry,
    file,
    first_key,
    hub_folder,
    is_refused,
    line_file,
    load_model,
    merge_run,
    mnist,
    pack,
    pictures,
    report,
    status_of,
    threat,
    weights,
)


@dataclass(frozen=True)
class Parser:
    """One kind of input. make: makes a case of a source of randomness; run: reads it, in a folder of its own;
    share: of all cases, less where a case takes long."""

    name: str
    make: Make
    run: Run
    share: int


PARSERS = (
    Parser("threats", texts("Linf:8/255", "L2:0.5", "L1:12", "Linf:1e-3"), threat, 200),
    Parser(
        "references of models",
        texts(
            "weights:a.pt[arch=conv2,width=0.5]",
            "switch:a+b[weights=0.2+0.8]",
            "file:a/b.py:net[x=1]",
            "timm:x[checkpoint=a,b.pt,n=2]",
        ),
        lambda text, folder: Reference.parse(text),
        200,
    ),
    Parser(
        "references of data",
        texts("digits:test:100", "npz:a.npz:train", "imagefolder:a:b:test:5"),
        lambda text, folder: DataReference.parse(text),
        200,
    ),
    Parser(
        "options in brackets",
        texts("arch=conv2,width=0.5,normalize=0.5/0.2", "a=b,c=d"),
        lambda text, folder: parse_options(text, text, paths=True),
        200,
    ),
    Parser(
        "attacks",
        texts(
            "pgd:steps=50,restarts=5,step=1/4",
            "autoattack:version=rand",
            "arc:steps=5",
            "autoattack:attacks=apgd-ce+square,iterations=20",
            "apgd:loss=dlr",
            "joint",
            "screen",
        ),
        attack,
        60,
    ),
    Parser(
        "certificates",
        texts("crown:alpha=20", "milp:seconds=60", "ibp"),
        lambda text, folder: CertificateSpec.parse(text),
        120,
    ),
    Parser(
        "kept fractions, sizes, normalisations",
        texts("0.05", "1e-2", "4GB", "0.49+0.48+0.45/0.25", "cifar10"),
        lambda text, folder: [
            is_refused(read, text) for read in (parse_remaining, parse_size, parse_normalisation)
        ],
        160,
    ),
    Parser(
        "settings of recipes",
        damaged(m.mutated_value, lambda: dict(study()["draw"][0]) | {"seed": 1}),
        lambda case, folder: recipe_for({k: v for k, v in case.items() if k not in ("name", "remaining")}),
        80,
    ),
    Parser(
        "command line",
        texts(
            "evaluate digits --limit 50 --attack pgd --threat Linf:0.1 --seed 3",
            "draw --data digits --remaining 0.1 --out t --width 0.5 --epochs 3",
            "report a b --out c --format json",
            "verify a --sample 2 --max-file-size 3GB",
        ),
        arguments,
        10,
    ),
    Parser(
        "study files (text)",
        damaged(m.mutated_bytes, lambda: seeds.STUDY.encode()),
        file("study.toml", lambda path: read_study(str(path))),
        120,
    ),
    Parser(
        "study files (values)",
        damaged(m.mutated_value, study),
        lambda case, folder: parse_study(case, "x"),
        60,
    ),
    Parser(
        "tickets",
        damaged(m.mutated_safetensors, lambda: seeds.tickets()[0]),
        file("t.safetensors", Ticket.load),
        20,
    ),
    Parser(
        "checkpoints",
        damaged(m.mutated_safetensors, lambda: seeds.tickets()[1]),
        file("c.safetensors", Checkpoint.load),
        25,
    ),
    Parser(
        "weights, safetensors",
        damaged(m.mutated_safetensors, lambda: seeds.weights()[2]),
        file("w.safetensors", partial(load_model, options="[arch=conv2,width=0.05]")),
        6,
    ),
    Parser(
        "weights, torch.save",
        damaged(torch_file, lambda: seeds.weights()[0], lambda: seeds.weights()[1]),
        file("w.pt", weights),
        12,
    ),
    Parser("configurations of hub folders", damaged(m.mutated_json, seeds.hub_config), hub_folder, 12),
    Parser(
        "ONNX graphs",
        damaged(m.mutated_bytes, seeds.onnx_graph),
        file("net.onnx", partial(load_model, source="onnx")),
        5,
    ),
    Parser(
        "programs of torch.export",
        damaged(partial(m.mutated_zip, inner=m.mutated_json), seeds.exported_program),
        file("net.pt2", partial(load_model, source="torch-export")),
        3,
    ),
    Parser("packs", damaged(m.mutated_zip, lambda: seeds.run_files()[PACK_FILE]), pack, 8),
    Parser(
        "evidence lines",
        damaged(m.mutated_lines, lambda: seeds.run_files()[f"results/{first_key()}.jsonl"]),
        line_file,
        150,
    ),
    Parser(
        "manifests",
        damaged(manifest_value, lambda: seeds.run_files()[MANIFEST_FILE]),
        file(MANIFEST_FILE, lambda path: Manifest.load(path.parent)),
        15,
    ),
    Parser(
        "reports of damaged runs", damaged(in_run(manifest_value, MANIFEST_FILE), seeds.run_files), report, 1
    ),
    Parser(
        "reports of damaged evidence",
        damaged(in_run(m.mutated_lines, "results/"), seeds.run_files),
        report,
        1,
    ),
    Parser("merged runs", damaged(in_run(m.mutated_lines, "results/"), seeds.run_files), merge_run, 1),
    Parser("logs of runs", damaged(in_run(m.mutated_lines, ".agenda"), seeds.run_files), status_of, 2),
    Parser(
        "costs of making", damaged(in_run(m.mutated_lines, "tickets/costs"), seeds.run_files), status_of, 1
    ),
    Parser(
        "kept images",
        damaged(damaged_arrays, lambda: seeds.run_files()[EXAMPLES_FILE]),
        file(EXAMPLES_FILE, lambda path: Examples.read(path.parent)),
        40,
    ),
    Parser(
        "archives of arrays",
        damaged(damaged_arrays, seeds.arrays),
        file("a.npz", lambda path: load(f"npz:{path}")),
        40,
    ),
    Parser("raw files of MNIST", damaged(one_of, seeds.mnist), mnist, 50),
    Parser(
        "image folders",
        damaged(damaged_picture, *(partial(seeds.pictures().__getitem__, i) for i in range(9))),
        pictures,
        25,
    ),
    Parser(
        "published figures (CSV)",
        damaged(m.mutated_bytes, lambda: seeds.PUBLISHED),
        file("p.csv", published.gather),
        10,
    ),
    Parser("published figures (RobustBench)", damaged(m.mutated_json, lambda: seeds.ENTRY), entry, 10),
    Parser(
        "tables of this tool",
        damaged(m.mutated_bytes, lambda: seeds.run_files()["leaderboard.csv"]),
        file("leaderboard.csv", rstbench.read_table),
        25,
    ),
)
