"""How large a file may be, so that none takes the machine's memory: `--max-file-size`. No torch.

What counts is what a file says it holds before it is read: the sizes that the header of an archive, an array
or an image declares. Text counts `TEXT_SHARE` times, for parsed it takes about as many times its bytes.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from .errors import BadFile, BadRequest

DEFAULT = 4 * 10**9  # bytes
TEXT_SHARE = 64
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Z]*)", re.IGNORECASE)
_limit: ContextVar[int] = ContextVar("max_file_size", default=DEFAULT)


def parse_size(text: str | int) -> int:
    """Read '4GB', '500 MB', '2GiB' or a number of bytes. Raises BadRequest."""
    match = _SIZE.fullmatch(str(text).strip())
    size = int(float(match[1]) * _UNITS.get(match[2].upper(), 0)) if match else 0
    if size < 1:
        raise BadRequest(f"a size reads 4GB, 500MB or a number of bytes, got {str(text)[:80]!r}")
    return size


def max_file_size() -> int:
    """Return the limit in bytes."""
    return _limit.get()


def set_limit(size: int) -> None:
    """Set the limit of a process that works for another."""
    _limit.set(size)


@contextmanager
def file_size_limit(size: str | int | None) -> Iterator[None]:
    """Set the limit within the block; None leaves it as it is. Raises BadRequest for what is no size."""
    token = _limit.set(max_file_size() if size is None else parse_size(size))
    try:
        yield
    finally:
        _limit.reset(token)


def check_size(path: Path, size: float, what: str = "", share: int = 1) -> None:
    """Raise BadFile where `size` bytes are more than may be read.

    what: what takes them, the file itself by default; share: how many bytes of memory each of them takes.
    """
    if size * share > max_file_size():
        holds = f"{what} takes" if what else "takes"
        raise BadFile(
            f"{path}: {holds} {_text(size)}, more than the {_text(max_file_size() / share)} that may be "
            f"read; if it is to be trusted, add --max-file-size {_text(size * share)}"
        )


def check_file(path: Path, share: int = 1) -> None:
    """Raise BadFile for what is no ordinary file (a device, a pipe), and for a file that is too large.

    Raises FileNotFoundError where there is none.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(f"{path} is no ordinary file")
    check_size(path, status.st_size, share=share)


def read_bytes(path: Path, share: int = 1) -> bytes:
    """Return the content of a file. Raises BadFile for one that is too large or no file, and OSError."""
    check_file(path, share)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a file. Raises as `read_bytes`, and ValueError for other bytes."""
    return read_bytes(path, TEXT_SHARE).decode()


def _text(size: float) -> str:
    """Write a size, rounded up, as `parse_size` reads it."""
    for unit, bytes in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes:
            return f"{-(-size * 10 // bytes) / 10:g}{unit}"
    return f"{size:g}B"
