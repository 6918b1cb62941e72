"""Every parser of the tool: how an input of it is made from a valid one, and what reads it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

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
Make = Callable[[Random], Any]


@dataclass(frozen=True)
class Parser:
    """One kind of input. make: makes a case of a source of randomness; run: reads it, in a folder of its own;
    share: of all cases, in thousandths."""

    name: str
    make: Make
    run: Run
    share: int


def texts(*valid: str) -> Make:
    """Give damaged texts, one in ten as it is, one in ten of random letters."""

    def make(random: Random) -> str:
        kind, text = random.randrange(10), random.choice(valid)
        if kind == 0:
            return "".join(
                chr(random.randrange(random.choice((128, 0x3000, 0xD800))))
                for _ in range(random.randrange(30))
            )
        return text if kind == 1 else m.mutated_text(text, random)

    return make


def damaged(mutate: Callable[[Any, Random], Any], *valid: Callable[[], Any]) -> Make:
    """Give damaged copies of valid inputs, one in ten as it is; those are made when they are needed first."""

    def make(random: Random) -> Any:
        content = random.choice(valid)()
        return mutate(content, random) if random.randrange(10) else content

    return make


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


def _damaged_picture(content: bytes, random: Random) -> bytes:
    return (m.mutated_png if content.startswith(b"\x89PNG") else m.mutated_bytes)(content, random)


def _one_of(case: tuple[bytes, ...], random: Random) -> tuple[bytes, ...]:
    """Damage one file of several."""
    chosen = random.randrange(len(case))
    return tuple(
        m.mutated_bytes(content, random) if i == chosen else content for i, content in enumerate(case)
    )


_arrays = partial(m.mutated_zip, inner=m.mutated_bytes)
PARSERS = (
    Parser("threats", texts("Linf:8/255", "L2:0.5", "L1:12", "Linf:1e-3"), _threat, 80),
    Parser("references of models", texts("weights:a.pt[arch=conv2,width=0.5]", "switch:a+b[weights=0.2+0.8]",
                                         "file:a/b.py:net[x=1]", "timm:x[checkpoint=a,b.pt,n=2]"),
           lambda text, folder: Reference.parse(text), 80),
    Parser("references of data", texts("digits:test:100", "npz:a.npz:train", "imagefolder:a:b:test:5"),
           lambda text, folder: DataReference.parse(text), 80),
    Parser("options in brackets", texts("arch=conv2,width=0.5,normalize=0.5/0.2", "a=b,c=d"),
           lambda text, folder: parse_options(text, text, paths=True), 80),
    Parser("attacks", texts("pgd:steps=50,restarts=5,step=1/4", "autoattack:version=rand", "arc:steps=5",
                            "autoattack:attacks=apgd-ce+square,iterations=20", "apgd:loss=dlr", "joint", "screen"),
           _attack, 60),
    Parser("certificates", texts("crown:alpha=20", "milp:seconds=60", "ibp"),
           lambda text, folder: CertificateSpec.parse(text), 50),
    Parser("kept fractions, sizes, normalisations", texts("0.05", "1e-2", "4GB", "0.49+0.48+0.45/0.25", "cifar10"),
           lambda text, folder: [_refused(read, text) for read in (parse_remaining, parse_size, parse_normalisation)],
           60),
    Parser("settings of recipes", damaged(m.mutated_value, lambda: dict(_study()["draw"][0]) | {"seed": 1}),
           lambda case, folder: recipe_for({k: v for k, v in case.items() if k not in ("name", "remaining")}), 60),
    Parser("command line", texts("evaluate digits --limit 50 --attack pgd --threat Linf:0.1 --seed 3",
                                 "draw --data digits --remaining 0.1 --out t --width 0.5 --epochs 3",
                                 "report a b --out c --format json", "verify a --sample 2 --max-file-size 3GB"),
           _arguments, 15),
    Parser("study files (text)", damaged(m.mutated_bytes, lambda: seeds.STUDY.encode()),
           file("study.toml", lambda path: read_study(str(path))), 80),
    Parser("study files (values)", damaged(m.mutated_value, _study), lambda case, folder: parse_study(case, "x"), 60),
    Parser("tickets", damaged(m.mutated_safetensors, lambda: seeds.tickets()[0]),
           file("t.safetensors", Ticket.load), 30),
    Parser("checkpoints", damaged(m.mutated_safetensors, lambda: seeds.tickets()[1]),
           file("c.safetensors", Checkpoint.load), 30),
    Parser("weights, safetensors", damaged(m.mutated_safetensors, lambda: seeds.weights()[2]),
           file("w.safetensors", partial(_model, options="[arch=conv2,width=0.05]")), 10),
    Parser("weights, torch.save", damaged(_torch_file, lambda: seeds.weights()[0], lambda: seeds.weights()[1]),
           file("w.pt", _weights), 25),
    Parser("configurations of hub folders", damaged(m.mutated_json, seeds.hub_config), _hub, 12),
    Parser("ONNX graphs", damaged(m.mutated_bytes, seeds.onnx_graph),
           file("net.onnx", partial(_model, source="onnx")), 6),
    Parser("programs of torch.export", damaged(partial(m.mutated_zip, inner=m.mutated_json), seeds.exported_program),
           file("net.pt2", partial(_model, source="torch-export")), 4),
    Parser("packs", damaged(m.mutated_zip, lambda: seeds.run_files()[PACK_FILE]), _pack, 10),
    Parser("evidence lines", damaged(m.mutated_lines, lambda: seeds.run_files()[f"results/{_first_key()}.jsonl"]),
           _line_file, 80),
    Parser("manifests", damaged(_manifest_value, lambda: seeds.run_files()[MANIFEST_FILE]),
           file(MANIFEST_FILE, lambda path: Manifest.load(path.parent)), 20),
    Parser("reports of damaged runs", damaged(_in_run(_manifest_value, MANIFEST_FILE), seeds.run_files), _report, 1),
    Parser("reports of damaged evidence", damaged(_in_run(m.mutated_lines, "results/"), seeds.run_files), _report, 1),
    Parser("merged runs", damaged(_in_run(m.mutated_lines, "results/"), seeds.run_files), _merge, 1),
    Parser("logs of runs", damaged(_in_run(m.mutated_lines, ".agenda"), seeds.run_files), _status, 2),
    Parser("costs of making", damaged(_in_run(m.mutated_lines, "tickets/costs"), seeds.run_files), _status, 1),
    Parser("kept images", damaged(_arrays, lambda: seeds.run_files()[EXAMPLES_FILE]),
           file(EXAMPLES_FILE, lambda path: Examples.read(path.parent)), 30),
    Parser("archives of arrays", damaged(_arrays, seeds.arrays), file("a.npz", lambda path: load(f"npz:{path}")), 30),
    Parser("raw files of MNIST", damaged(_one_of, seeds.mnist), _mnist, 30),
    Parser("image folders", damaged(_damaged_picture, *(partial(seeds.pictures().__getitem__, i) for i in range(9))),
           _pictures, 25),
    Parser("published figures (CSV)", damaged(m.mutated_bytes, lambda: seeds.PUBLISHED),
           file("p.csv", published.gather), 12),
    Parser("published figures (RobustBench)", damaged(m.mutated_json, lambda: seeds.ENTRY), _entry, 12),
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
