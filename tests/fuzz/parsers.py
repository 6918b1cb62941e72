"""Every parser of the tool: how an input of it is made from a valid one, and what reads it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import rstbench
from rstbench.attacks import AttackSpec
from rstbench.certificates import CertificateSpec
from rstbench.cli.arguments import make_parser
from rstbench.cli.commands import VERBS
from rstbench.data import load
from rstbench.evidence.examples import EXAMPLES_FILE, Examples
from rstbench.evidence.manifest import MANIFEST_FILE, Manifest
from rstbench.evidence.merge import merge
from rstbench.evidence.pack import PACK_FILE
from rstbench.evidence.packing import pack_folder
from rstbench.evidence.store import Store
from rstbench.limits import parse_size
from rstbench.models.wrapper import KindOfImages, load_reference
from rstbench.networks.normalise import parse_normalisation
from rstbench.references import DataReference, Reference, parse_options
from rstbench.reports import published
from rstbench.reports.lookup import Evidence
from rstbench.reports.report import write_report
from rstbench.reports.status import read_status, status_text
from rstbench.reports.tables import as_text, write
from rstbench.study.reading import parse_study, read_study
from rstbench.threat import Threat
from rstbench.tickets.checkpoint import Checkpoint
from rstbench.tickets.mask import parse_remaining
from rstbench.tickets.ticket import Ticket
from rstbench.training.recipe import recipe_for
from tests.fuzz import mutations as m
from tests.fuzz import seeds

IMAGES = KindOfImages(10, (1, 8, 8))
Run = Callable[[Any, Path], object]


@dataclass(frozen=True)
class Parser:
    """One kind of input. cases: makes inputs; run: reads one, in a folder of its own; share: of all cases, in
    thousandths."""

    name: str
    cases: SearchStrategy[Any]
    run: Run
    share: int


def texts(*valid: str) -> SearchStrategy[str]:
    """Give damaged texts, and a few that are random."""
    damaged = st.builds(
        lambda text, seed: m.mutated_text(text, Random(seed)) if seed % 10 else text,
        st.sampled_from(valid),
        st.integers(0, 2**48),
    )
    return st.one_of(damaged, damaged, damaged, st.text(max_size=40))


def damaged(mutate: Callable[[Any, Random], Any], *valid: Callable[[], Any]) -> SearchStrategy[Any]:
    """Give damaged copies of valid inputs, which are made when they are needed first."""
    return st.builds(
        lambda make, seed: mutate(make(), Random(seed)) if seed % 10 else make(),
        st.sampled_from(valid),
        st.integers(0, 2**48),
    )


def file(name: str, read: Callable[[Path], object]) -> Run:
    """Read a case that is the content of a file."""

    def run(content: bytes, folder: Path) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return read(path)

    return run


def _settings(case: dict[str, Any], folder: Path) -> object:
    return recipe_for(case)


def _threat(text: str, folder: Path) -> None:
    threat = Threat.parse(text)
    assert Threat.parse(str(threat)) == threat


def _attack(text: str, folder: Path) -> None:
    spec = AttackSpec.parse(text)
    assert str(AttackSpec.parse(str(spec))) == str(spec)


def _model(path: Path, options: str = "", source: str = "weights") -> object:
    return load_reference(f"{source}:{path}{options}", IMAGES)


class _Canary:
    """What a hostile pickle holds: a call of a program."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CANARIES = [
    pickle.dumps({"state_dict": {"w": _Canary(function, *arguments)}}, protocol)
    for function, *arguments in (
        (os.system, "touch canary"), (eval, "open('canary', 'w')"), (exec, "open('canary', 'w')"), (print, "canary"),
        (open, "canary", "w"), (__import__, "antigravity"), (bytearray, 10**9), (list, range(10**9)),
    )
    for protocol in (0, 2, 4)
]  # fmt: skip


def _torch_file(content: bytes, random: Random) -> bytes:
    """Damage a file of torch.save, or put a hostile pickle in its place, or in that of its list of tensors."""
    kind = random.randrange(8)
    if kind == 0:
        return random.choice(CANARIES)
    if not content.startswith(b"PK"):
        return m.mutated_bytes(content, random)
    if kind == 1:
        return m.mutated_zip(content, random, lambda data, _: random.choice(CANARIES))
    return m.mutated_zip(content, random)


def _weights(path: Path) -> None:
    try:
        _model(path, "[arch=conv2,width=0.05]")
    finally:
        assert not Path("canary").exists()
        assert not (path.parent / "canary").exists()


def _mnist(case: tuple[bytes, bytes], folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in zip(("images-idx3", "labels-idx1"), case, strict=True):
        (raw / f"t10k-{name}-ubyte").write_bytes(content)
    load("mnist:test", folder)


def _pictures(content: bytes, folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "a" / "1.png").write_bytes(seeds.pictures()[0])
    (folder / "b" / "2.png").write_bytes(content)
    load(f"imagefolder:{folder}")


def _run_folder(case: tuple[str, bytes] | dict[str, bytes], folder: Path) -> Path:
    """Write the files of a run, one of them damaged, or all as they are."""
    changed = dict([case]) if isinstance(case, tuple) else {}
    for name, content in {**seeds.run_files(), **changed}.items():
        if name != PACK_FILE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def _report(case: tuple[str, bytes], folder: Path) -> None:
    root = _run_folder(case, folder)
    evidence = Evidence.read(root)
    list(as_text(write(evidence, root, ["markdown", "latex", "html", "json"])))


def _page(case: tuple[str, bytes], folder: Path) -> None:
    root = _run_folder(case, folder)
    evidence = Evidence.read(root)
    write_report(evidence, write(evidence, root), root)


def _merge(case: tuple[str, bytes], folder: Path) -> None:
    merge([_run_folder(case, folder / "a")], folder / "out")
    Evidence.read(folder / "out")


def _pack(content: bytes, folder: Path) -> None:
    (folder / PACK_FILE).write_bytes(content)
    store = Store(folder)
    for key in store.keys():
        store.read(key)


def _line_file(content: bytes, folder: Path) -> None:
    key = _first_key()
    path = Store(folder).path(key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    Store(folder).read(key)


def _first_key() -> str:
    return next(name for name in seeds.run_files() if name.startswith("results/"))[8:-6]


def _status(case: tuple[str, bytes], folder: Path) -> None:
    root = _run_folder(case, folder)
    list(status_text(read_status(root, 1.8e9), 1.8e9))


def _hub(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    (folder / "model.safetensors").write_bytes(seeds.weights()[2])
    load_reference(f"hub:{folder}", IMAGES)


def _entry(content: bytes, folder: Path) -> None:
    path = folder / "cifar10" / "Linf" / "x.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    published.gather(path)


def _toml(plain: dict[str, Any]) -> bytes:
    import tomli_w

    return tomli_w.dumps(plain).encode()


def _manifest_value(content: bytes, random: Random) -> bytes:
    """Damage the values of a TOML file, or its text where that gives none."""
    import tomllib

    try:
        return _toml(m.mutated_value(tomllib.loads(content.decode()), random))
    except (TypeError, ValueError, AttributeError, RecursionError):
        return m.mutated_bytes(content, random)


def _in_run(
    mutate: Callable[[bytes, Random], bytes], start: str
) -> Callable[[Any, Random], tuple[str, bytes]]:
    """Damage one file of a run whose name begins so."""

    def mutated(files: dict[str, bytes], random: Random) -> tuple[str, bytes]:
        name = random.choice([name for name in files if name.startswith(start)])
        return name, mutate(files[name], random)

    return mutated


def _study() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(seeds.STUDY)


def _arguments(case: str, folder: Path) -> None:
    make_parser(VERBS).parse_args(case.split(" "))


def _one_of(case: tuple[bytes, ...], random: Random) -> tuple[bytes, ...]:
    """Damage one file of several."""
    chosen = random.randrange(len(case))
    return tuple(
        m.mutated_bytes(content, random) if i == chosen else content for i, content in enumerate(case)
    )


_arrays = partial(m.mutated_zip, inner=m.mutated_bytes)
PARSERS = (
    Parser("threats", texts("Linf:8/255", "L2:0.5", "L1:12", "Linf:1e-3"), _threat, 60),
    Parser("references of models", texts("weights:a.pt[arch=conv2,width=0.5]", "switch:a+b[weights=0.2+0.8]",
                                         "file:a/b.py:net[x=1]", "timm:x[checkpoint=a,b.pt,n=2]"),
           lambda text, folder: Reference.parse(text), 60),
    Parser("references of data", texts("digits:test:100", "npz:a.npz:train", "imagefolder:a:b:test:5"),
           lambda text, folder: DataReference.parse(text), 50),
    Parser("options in brackets", texts("arch=conv2,width=0.5,normalize=0.5/0.2", "a=b,c=d"),
           lambda text, folder: parse_options(text, text, paths=True), 50),
    Parser("attacks", texts("pgd:steps=50,restarts=5,step=1/4", "autoattack:version=rand", "arc:steps=5",
                            "autoattack:attacks=apgd-ce+square,iterations=20", "apgd:loss=dlr", "joint", "screen"),
           _attack, 60),
    Parser("certificates", texts("crown:alpha=20", "milp:seconds=60", "ibp"),
           lambda text, folder: CertificateSpec.parse(text), 40),
    Parser("kept fractions, sizes, normalisations", texts("0.05", "1e-2", "4GB", "0.49+0.48+0.45/0.25", "cifar10"),
           lambda text, folder: [_refused(read, text) for read in (parse_remaining, parse_size, parse_normalisation)],
           50),
    Parser("settings of recipes", damaged(m.mutated_value, lambda: dict(_study()["draw"][0]) | {"seed": 1}),
           lambda case, folder: recipe_for({k: v for k, v in case.items() if k not in ("name", "remaining")}), 40),
    Parser("command line", texts("evaluate digits --limit 50 --attack pgd --threat Linf:0.1 --seed 3",
                                 "draw --data digits --remaining 0.1 --out t --width 0.5 --epochs 3",
                                 "report a b --out c --format json", "verify a --sample 2 --max-file-size 3GB"),
           _arguments, 40),
    Parser("study files (text)", damaged(m.mutated_bytes, lambda: seeds.STUDY.encode()),
           file("study.toml", lambda path: read_study(str(path))), 60),
    Parser("study files (values)", damaged(m.mutated_value, _study), lambda case, folder: parse_study(case, "x"), 50),
    Parser("tickets", damaged(m.mutated_safetensors, lambda: seeds.tickets()[0]),
           file("t.safetensors", Ticket.load), 40),
    Parser("checkpoints", damaged(m.mutated_safetensors, lambda: seeds.tickets()[1]),
           file("c.safetensors", Checkpoint.load), 30),
    Parser("weights, safetensors", damaged(m.mutated_safetensors, lambda: seeds.weights()[2]),
           file("w.safetensors", partial(_model, options="[arch=conv2,width=0.05]")), 25),
    Parser("weights, torch.save", damaged(_torch_file, lambda: seeds.weights()[0], lambda: seeds.weights()[1]),
           file("w.pt", _weights), 40),
    Parser("configurations of hub folders", damaged(m.mutated_json, seeds.hub_config), _hub, 15),
    Parser("ONNX graphs", damaged(m.mutated_bytes, seeds.onnx_graph),
           file("net.onnx", partial(_model, source="onnx")), 10),
    Parser("programs of torch.export", damaged(partial(m.mutated_zip, inner=m.mutated_json), seeds.exported_program),
           file("net.pt2", partial(_model, source="torch-export")), 6),
    Parser("packs", damaged(m.mutated_zip, lambda: seeds.run_files()[PACK_FILE]), _pack, 15),
    Parser("evidence lines", damaged(m.mutated_lines, lambda: seeds.run_files()[f"results/{_first_key()}.jsonl"]),
           _line_file, 60),
    Parser("manifests", damaged(_manifest_value, lambda: seeds.run_files()[MANIFEST_FILE]),
           file(MANIFEST_FILE, lambda path: Manifest.load(path.parent)), 30),
    Parser("reports of damaged runs", damaged(_in_run(_manifest_value, MANIFEST_FILE), seeds.run_files), _report, 4),
    Parser("reports of damaged evidence", damaged(_in_run(m.mutated_lines, "results/"), seeds.run_files), _report, 4),
    Parser("merged runs", damaged(_in_run(m.mutated_lines, "results/"), seeds.run_files), _merge, 3),
    Parser("logs of runs", damaged(_in_run(m.mutated_lines, ".agenda"), seeds.run_files), _status, 5),
    Parser("costs of making", damaged(_in_run(m.mutated_lines, "tickets/costs"), seeds.run_files), _status, 3),
    Parser("kept images", damaged(_arrays, lambda: seeds.run_files()[EXAMPLES_FILE]),
           file(EXAMPLES_FILE, lambda path: Examples.read(path.parent)), 20),
    Parser("archives of arrays", damaged(_arrays, seeds.arrays), file("a.npz", lambda path: load(f"npz:{path}")), 30),
    Parser("raw files of MNIST", damaged(_one_of, seeds.mnist), _mnist, 20),
    Parser("image folders", st.one_of(damaged(m.mutated_png, lambda: seeds.pictures()[0], lambda: seeds.pictures()[1],
                                              lambda: seeds.pictures()[2]),
                                      *[damaged(m.mutated_bytes, partial(seeds.pictures().__getitem__, index))
                                        for index in range(3, 9)]), _pictures, 40),
    Parser("published figures (CSV)", damaged(m.mutated_bytes, lambda: seeds.PUBLISHED),
           file("p.csv", published.gather), 20),
    Parser("published figures (RobustBench)", damaged(m.mutated_json, lambda: seeds.ENTRY), _entry, 20),
    Parser("tables of this tool", damaged(m.mutated_bytes, lambda: seeds.run_files()["leaderboard.csv"]),
           file("leaderboard.csv", rstbench.read_table), 20),
)  # fmt: skip


def _refused(read: Callable[[str], object], text: str) -> bool:
    """Try one of several readers of one text."""
    try:
        read(text)
    except rstbench.BadRequest:
        return True
    return False
