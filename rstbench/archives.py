"""Check what archives say they hold, before anything of them is read. numpy when called, no torch."""

from __future__ import annotations

import gzip
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

from .errors import BadFile
from .limits import check_file, check_size, max_file_size

_ARRAY = ".npy"
# What zipfile and numpy raise of damaged archives.
DAMAGE = (
    AttributeError, EOFError, KeyError, MemoryError, NotImplementedError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def check_archive(path: Path) -> None:
    """Raise BadFile for a zip archive whose members are too large together, by what its list says.

    What is no zip archive is left to whoever reads it.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    check_size(path, size, "what it unpacks to")


def check_arrays(path: Path) -> None:
    """Raise BadFile for an archive of arrays as `check_archive`, and where the header of one declares another
    size than it has. Raises ValueError and what zipfile raises where it is damaged."""
    import numpy as np

    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(_ARRAY):
                continue
            with archive.open(member) as file:
                shape, dtype, start = _header(np.lib.format, file)
            if not dtype.hasobject and start + math.prod(shape) * dtype.itemsize != member.file_size:
                raise BadFile(f"{path}: {member.filename} declares {dtype} {shape}, and has another size")


def gunzip(path: Path) -> bytes:
    """Return the content of a gzip file. Raises BadFile where it is too large, and what gzip raises."""
    check_file(path)
    with gzip.open(path) as file:
        content = file.read(max_file_size() + 1)
    check_size(path, len(content), "what it unpacks to")
    return content


def _header(format: Any, file: Any) -> tuple[tuple[int, ...], Any, int]:
    """Return (shape, dtype, where the values begin) of an array's file. Raises ValueError."""
    version = format.read_magic(file)
    read = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}.get(version)
    if read is None:  # 3.0 is for names of fields in other scripts
        raise ValueError(f"an array of version {'.'.join(map(str, version))} is none of numbers")
    shape, _, dtype = read(file)
    return shape, dtype, file.tell()
