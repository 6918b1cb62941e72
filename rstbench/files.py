"""Write files and folders whole or not at all, and add lines to files."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import BadRequest
from .limits import read_text
from .parsing import parse_json

LONGEST_NAME = 100  # letters; file systems take 255 bytes, with what is put before and after

# A temporary name: of a process, which is alive or not.
_DRAFT = re.compile(r"\..+\.(\d+)\.part", re.DOTALL)


def write_whole(path: Path, content: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write a file under a temporary name, then rename it: it is there whole or not at all.

    check: looks at the file before it takes its name, and raises where it must not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(draft, "wb", opener=_not_through_links) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check:
            check(draft)
        os.replace(draft, path)
    except OSError as error:
        error.filename = str(path)  # the temporary name says nothing to a user
        raise
    finally:
        draft.unlink(missing_ok=True)


def refuse_links(root: Path) -> None:
    """Raise BadRequest where a folder that is to be written to holds a link to another one, or a link in the
    place of a file that is added to. `root` itself may be a link, which the user named; links to other files
    are read through, and replaced where their names are written."""
    for folder, folders, files in os.walk(root):
        added_to = [name for name in files if name == ".lock" or name.endswith(".jsonl")]
        for path in (Path(folder, name) for name in (*folders, *added_to)):
            if path.is_symlink():
                raise BadRequest(
                    f"{path} is a link, and nothing is written through links; put the folder itself where it "
                    f"points, or choose another --out"
                )


def short_name(name: str) -> str:
    """Return a name that every file system takes: a long one cut, with a digest so that it stays its own."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def append(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Add to a file, with `sync` until it is on the disk. An OSError names the file."""
    try:
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise


def remove_drafts(folder: Path, names: str = ".*") -> None:
    """Remove what processes that are gone left half written under these names in a folder."""
    for path in folder.glob(f"{names}.part"):
        draft = _DRAFT.fullmatch(path.name)
        if draft and not _is_running(int(draft[1])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def refuse_foreign(path: Path, beside: Path) -> None:
    """Raise BadRequest where `path` is there and was not written by this tool, as `beside` would tell."""
    if path.is_dir() or (path.exists() and not beside.exists()):
        raise BadRequest(f"{path} exists and is no earlier export; choose another --out")


def write_folder(path: Path, files: Mapping[str, bytes], marker: str) -> None:
    """Write a folder of files: a new one, or one where the JSON file `marker` names this tool, as an earlier
    export does. Raises BadRequest for any other folder with files in it."""
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_free and not _is_ours(path / marker):
        raise BadRequest(f"{path} exists and is no earlier export; choose another --out")
    refuse_links(path)
    fill_folder(path, files)


def fill_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder. A new one is written under a temporary name, then renamed: it is there
    whole or not at all; one with files in it gets them one by one in this order, and keeps what it has."""
    if path.exists() and any(path.iterdir()):
        for name, content in files.items():
            write_whole(path / name, content)
        return
    target = path.resolve()
    remove_drafts(target.parent, f".{glob.escape(target.name)}.*")
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        os.replace(draft, path.resolve())  # the user may have named a link
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_ours(marker: Path) -> bool:
    try:
        return "rstbench" in parse_json(read_text(marker))
    except (OSError, BadRequest, ValueError, TypeError):
        return False


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
