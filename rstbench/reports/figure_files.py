"""Write the figures of a folder; those that would come out the same are left as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from .. import __version__
from ..errors import BadFile
from ..evidence.examples import EXAMPLES_FILE, Examples
from ..evidence.manifest import MANIFEST_FILE
from ..files import write_whole
from ..limits import TEXT_SHARE, read_bytes
from ..parsing import parse_json
from .csv_io import as_csv
from .figures.points import points
from .leaderboard import attacks_of, lines_of
from .lookup import Evidence
from .page.inline import Picture, inline

FOLDER = "figures"
WRITTEN = ".written"  # what lies there that is this tool's


@dataclass(frozen=True)
class _Figure:
    """A figure that was written as `<name>.svg` and `<name>.png`."""

    name: str
    title: str
    alt: str

    def picture(self, svg: bytes, index: int) -> Picture:
        return Picture(self.title, self.alt, inline(svg, f"f{index}"), f"{FOLDER}/{self.name}.svg")


@dataclass(frozen=True)
class _Written:
    """What was drawn of what, as `.written` holds it; files: sha256 by name."""

    drawn_from: str
    figures: Sequence[_Figure]
    files: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> _Written:
        """Read the file; what cannot be read, and the list of names that earlier versions wrote, is of no
        known origin."""
        text = ""
        try:
            text = read_bytes(path, TEXT_SHARE).decode(errors="replace") if path.exists() else ""
            plain = parse_json(text)
            figures = [
                _Figure(*(str(each[key]) for key in ("name", "title", "alt"))) for each in plain["figures"]
            ]
            files = {Path(name).name: str(digest) for name, digest in plain["files"].items()}
            known = all(f"{figure.name}.svg" in files for figure in figures)
            return cls(str(plain["drawn_from"]) if known else "", figures, files)
        except (BadFile, ValueError, TypeError, KeyError, AttributeError):
            names = [line for line in text.splitlines() if line and Path(line).name == line]
            return cls("", [], dict.fromkeys(names, ""))

    def stands(self, root: Path, drawn_from: str) -> bool:
        """Return whether the files are there, and were drawn from the same."""
        same = self.drawn_from == drawn_from
        return same and all(_sha256(root / name) == digest for name, digest in self.files.items())


def write_figures(evidence: Evidence, frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Picture]:
    """Write the figures that show something, delete those of an earlier request, and return all of them.

    Raises ImportError where matplotlib cannot be loaded.
    """
    root, drawn_from = folder / FOLDER, _digest(evidence, frames, folder)
    before = _Written.read(root / WRITTEN)
    if before.stands(root, drawn_from):
        return [
            figure.picture((root / f"{figure.name}.svg").read_bytes(), index)
            for index, figure in enumerate(before.figures)
        ]
    figures, pictures, files = list[_Figure](), list[Picture](), dict[str, str]()
    for figure, svg, png in _draw(evidence, frames, folder):
        for kind, content in (("svg", svg), ("png", png)):
            write_whole(root / f"{figure.name}.{kind}", content)
            files[f"{figure.name}.{kind}"] = hashlib.sha256(content).hexdigest()
        pictures.append(figure.picture(svg, len(figures)))
        figures.append(figure)
    for name in before.files.keys() - files.keys():
        (root / name).unlink(missing_ok=True)
    if files or before.files:
        written = _Written(drawn_from, figures, files)
        write_whole(root / WRITTEN, (json.dumps(asdict(written), indent=1) + "\n").encode())
    return pictures


def _draw(
    evidence: Evidence, frames: Mapping[str, pd.DataFrame], folder: Path
) -> Iterator[tuple[_Figure, bytes, bytes]]:
    """Yield each figure as SVG and as PNG."""
    from .figures.all import draw_all
    from .figures.style import styled

    attacks = attacks_of(evidence)
    averaged = points(lines_of(evidence), attacks)
    with styled():
        for drawing in draw_all(evidence, frames, averaged, attacks, Examples.read(folder)):
            yield _Figure(drawing.name, drawing.title, drawing.alt), drawing.svg(), drawing.png()


def _digest(evidence: Evidence, frames: Mapping[str, pd.DataFrame], folder: Path) -> str:
    """Return a digest of everything that figures follow from, and of the code that draws them."""
    digest = hashlib.sha256(f"{__version__} {version('matplotlib')}".encode())
    sources = sorted((Path(__file__).parent / "figures").glob("*.py"))
    for path in (*sources, folder / MANIFEST_FILE, folder / EXAMPLES_FILE):
        digest.update(path.name.encode() + (path.read_bytes() if path.exists() else b""))
    for name, frame in frames.items():
        digest.update(name.encode() + as_csv(frame))
    for question, record in evidence.records.items():
        digest.update(f"{question}{record.bits}".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
