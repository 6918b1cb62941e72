"""Pack a folder's evidence so that a kill at any instant loses nothing. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import BadFile
from .pack import PACK_FILE, complete_lines, joined_lines, write_pack
from .store import Store


def pack_folder(root: Path) -> str:
    """Join `results/*.jsonl` and an earlier pack into `results.zip`; returns a line for the user.

    Files go only after the new pack has taken its name and was read back. Raises BadFile where there is no
    evidence, some is damaged or two answers differ, BadRequest while a run writes to the folder.
    """
    store = Store(root)
    if not store.keys():
        raise BadFile(f"no evidence in {root}; name a folder that `evaluate` wrote")
    with store.lock("pack it when that has ended"):
        files = {path.stem: path.read_bytes() for path in sorted(store.folder.glob("*.jsonl"))}
        contents = _contents(store, files) if files else {}
        new = files.keys() & contents.keys()  # a file that holds no complete answer stays
        if new:
            write_pack(root / PACK_FILE, contents)
            _sync(root)
            for key in new:
                if store.path(key).read_bytes() == files[key]:
                    store.path(key).unlink()
        elif files and not store.pack():
            raise BadFile(f"no complete answer in {store.folder}; run the command that writes there again")
        with suppress(OSError):  # what is not evidence stays
            store.folder.rmdir()
    pack = store.pack()
    path, count = root / PACK_FILE, len(pack.keys) if pack else 0
    size = path.stat().st_size / 1000
    return f"{path}\t{count} questions, {len(new)} of them new or added to, {size:.0f} kB"


def _contents(store: Store, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the lines of every question by its key, packed ones first. Raises BadFile."""
    pack, contents = store.pack(), dict[str, bytes]()
    keys = store.keys()
    for key in keys:
        if store.read(key) is not None:  # else a kill tore its first line
            pieces = [pack.read(key) if pack else None, files.get(key)]
            contents[key] = joined_lines([piece for piece in pieces if piece and complete_lines(piece)])
    if pack:
        pack.close()
    return contents


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the platform can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
