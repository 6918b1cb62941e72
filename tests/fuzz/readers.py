"""Read a case of each kind of input, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import rstbench
from rstbench.attacks import AttackSpec
from rstbench.cli.arguments import make_parser
from rstbench.cli.commands import VERBS
from rstbench.data import load
from rstbench.evidence.merge import merge
from rstbench.evidence.pack import PACK_FILE
from rstbench.evidence.store import Store
from rstbench.models.wrapper import KindOfImages, load_reference
from rstbench.reports import published
from rstbench.reports.lookup import Evidence
from rstbench.reports.status import read_status, status_text
from rstbench.reports.tables import as_text, write
from rstbench.threat import Threat
from tests.fuzz import seeds

IMAGES = KindOfImages(10, (1, 8, 8))


Run = Callable[[Any, Path], object]


def file(name: str, read: Callable[[Path], object]) -> Run:
    """Read a case that is the content of a file."""

    def run(content: bytes, folder: Path) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return read(path)

    return run


def threat(text: str, folder: Path) -> None:
    threat = Threat.parse(text)
    assert Threat.parse(str(threat)) == threat


def attack(text: str, folder: Path) -> None:
    spec = AttackSpec.parse(text)
    assert str(AttackSpec.parse(str(spec))) == str(spec)


def load_model(path: Path, options: str = "", source: str = "weights") -> object:
    return load_reference(f"{source}:{path}{options}", IMAGES)


def weights(path: Path) -> None:
    try:
        load_model(path, "[arch=conv2,width=0.05]")
    finally:
        assert not Path("canary").exists()
        assert not (path.parent / "canary").exists()


def mnist(case: tuple[bytes, bytes], folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in zip(("images-idx3", "labels-idx1"), case, strict=True):
        (raw / f"t10k-{name}-ubyte").write_bytes(content)
    load("mnist:test", folder)


def pictures(content: bytes, folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "a" / "1.png").write_bytes(seeds.pictures()[0])
    (folder / "b" / "2.png").write_bytes(content)
    load(f"imagefolder:{folder}")


def run_folder(case: tuple[str, bytes] | dict[str, bytes], folder: Path) -> Path:
    """Write the files of a run, one of them damaged, or all as they are."""
    changed = dict([case]) if isinstance(case, tuple) else {}
    for name, content in {**seeds.run_files(), **changed}.items():
        if name != PACK_FILE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def report(case: tuple[str, bytes], folder: Path) -> None:
    root = run_folder(case, folder)
    evidence = Evidence.read(root)
    list(as_text(write(evidence, root, ["markdown", "latex", "html", "json"])))


def merge_run(case: tuple[str, bytes], folder: Path) -> None:
    merge([run_folder(case, folder / "a")], folder / "out")
    Evidence.read(folder / "out")


def pack(content: bytes, folder: Path) -> None:
    (folder / PACK_FILE).write_bytes(content)
    store = Store(folder)
    for key in store.keys():  # noqa: SIM118
        store.read(key)


def line_file(content: bytes, folder: Path) -> None:
    key = first_key()
    path = Store(folder).path(key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    Store(folder).read(key)


def first_key() -> str:
    return next(name for name in seeds.run_files() if name.startswith("results/"))[8:-6]


def status_of(case: tuple[str, bytes], folder: Path) -> None:
    root = run_folder(case, folder)
    list(status_text(read_status(root, 1.8e9), 1.8e9))


def hub_folder(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    (folder / "model.safetensors").write_bytes(seeds.weights()[2])
    load_reference(f"hub:{folder}", IMAGES)


def entry(content: bytes, folder: Path) -> None:
    path = folder / "cifar10" / "Linf" / "x.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    published.gather(path)


def arguments(case: str, folder: Path) -> None:
    make_parser(VERBS).parse_args(case.split(" "))


def is_refused(read: Callable[[str], object], text: str) -> bool:
    """Try one of several readers of one text."""
    try:
        read(text)
    except rstbench.BadRequest:
        return True
    return False
