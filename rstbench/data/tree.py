"""Walk trees of image files as torchvision's ImageFolder does, hidden files left out.

Source: https://github.com/pytorch/vision/blob/main/torchvision/datasets/folder.py (`find_classes`,
`make_dataset`, `IMG_EXTENSIONS`): sorted classes, files at any depth below them, links followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import BadFile, listed

MAX_DEPTH = 8  # of folders in folders that are followed to where they branch
FORMATS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Files and folders of desktops, archivers and storage boxes; names that begin with a dot are hidden anyway.
SYSTEM = {"__macosx", "__pycache__", "@eadir", "@recycle", "@tmp", "#recycle", "$recycle.bin", "lost+found"}
SYSTEM |= {"system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"}


def class_folders(folder: Path) -> tuple[list[str], list[Path]]:
    """Return (sorted class names, other paths beside them). Raises BadFile for a broken link."""
    names, beside = [], []
    for entry in _entries(folder):
        if not is_hidden(entry.name) and entry.is_dir():
            names.append(entry.name)
            continue
        if not is_hidden(entry.name) and entry.is_symlink() and not os.path.exists(entry.path):
            raise BadFile(f"{entry.path} is a broken link; where it is a class, all labels after it shift")
        beside.append(Path(entry.path))
    return names, beside


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return (image files at any depth in torchvision's order, skipped paths).

    Raises BadFile for a link to a folder above it, whose images would be read again and again.
    """
    images, skipped = list[tuple[str, list[str]]](), list[Path]()
    for root, entries in _walk(str(folder), ()):
        images.append((root, [entry.name for entry in entries if _is_image_file(entry)]))
        skipped += [
            Path(e.path) for e in entries if is_hidden(e.name) or not (e.is_dir() or is_image(e.name))
        ]
    return [Path(root, name) for root, names in sorted(images) for name in names], skipped


def scan(folder: Path) -> tuple[list[str], bool]:
    """Return (names of the folders in it, whether images lie beside them). Raises as `class_folders`."""
    names, beside = class_folders(folder)
    return names, any(is_image(path.name) and not is_hidden(path.name) for path in beside)


def holds_classes(folder: Path) -> bool:
    """Whether a folder has folders in it, and no images beside them."""
    names, loose = scan(folder)
    return bool(names) and not loose


def holds_images(folder: Path) -> bool:
    """Whether there is an image at any depth."""
    return any(_is_image_file(entry) for _, entries in _walk(str(folder), ()) for entry in entries)


def innermost(folder: Path) -> Path:
    """Return where folders branch: `a` of a/x and a/y, `a/b` where a holds only b, and b has folders."""
    for _ in range(MAX_DEPTH):
        names, loose = scan(folder)
        if len(names) != 1 or loose or not scan(folder / names[0])[0]:
            break
        folder = folder / names[0]
    return folder


def is_image(name: str) -> bool:
    """Whether a name has the suffix of an image."""
    return name.lower().endswith(FORMATS)


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to a system or an editor, not to the data."""
    return name.startswith(".") or name.lower() in SYSTEM


def skip_note(skipped: Iterable[Path]) -> tuple[str, ...]:
    """Note what was skipped: `skipped 1 hidden folder (.ipynb_checkpoints)`."""
    kinds: dict[str, list[str]] = {}
    for path in skipped:
        kind = "file outside the class folders" if is_image(path.name) else "other file"
        if is_hidden(path.name):
            kind = "hidden folder" if path.is_dir() else "hidden file"
        kinds.setdefault(kind, []).append(path.name)
    parts = [f"{len(names)} {_plural(kind, len(names))} ({listed(names)})" for kind, names in kinds.items()]
    return (f"skipped {', '.join(parts)}",) if parts else ()


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else kind.replace("file", "files").replace("hidden folder", "hidden folders")


def _is_image_file(entry: os.DirEntry[str]) -> bool:
    return is_image(entry.name) and not is_hidden(entry.name) and not entry.is_dir()


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    real = os.path.realpath(folder)
    if real in above:
        raise BadFile(f"{folder} links to a folder above it; remove the link")
    entries = _entries(folder)
    yield folder, entries
    for entry in entries:
        if entry.is_dir() and not is_hidden(entry.name):
            yield from _walk(entry.path, (*above, real))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise BadFile(f"{folder} cannot be read: {error.strerror or error}") from None
