"""Pack evidence: one zip file in place of thousands of small files. No torch.

`results.zip` holds a member `<key>.jsonl` for each question, in the format of `results/<key>.jsonl`: a
header line, then one line a shard. It is never unpacked: new shards go to files beside it, and a reader
takes both. Members are sorted by key, shards by their first image, times and permissions are fixed, so equal
evidence gives equal bytes under equal versions of zlib; another zlib may compress otherwise, but the members
hold the same bytes. A pack with nothing new beside it is not written again.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import BadFile, one_line
from ..files import write_whole
from ..limits import TEXT_SHARE, check_size

PACK_FILE = "results.zip"
_NAME = re.compile(r"[0-9a-f]{64}\.jsonl")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can tell
_UNIX, _REGULAR_FILE = 3, 0o100644
_END = struct.Struct("<4s4H2LH")  # the end record of a zip file without a comment
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, RuntimeError, struct.error)


class Pack:
    """An open pack: its members are listed at once and read when asked for. Raises BadFile where it is
    damaged, FileNotFoundError where there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            self._zip = zipfile.ZipFile(path)
            try:
                assert self._zip.fp is not None  # for it is open
                self.version = _version(os.fstat(self._zip.fp.fileno()))
                self._members = _checked(self._zip.infolist(), self.version[1])
                for member in self._members.values():
                    check_size(path, member.file_size, member.filename, TEXT_SHARE)
                _check_end(self._zip.fp, self.version[1], len(self._members))
            except BaseException:
                self.close()
                raise
        self.keys = frozenset(self._members)

    def close(self) -> None:
        """Close the file, so that another may take its name on every platform."""
        self._zip.close()

    def is_current(self) -> bool:
        """Tell whether the path still holds the file that was opened."""
        try:
            return self.version == _version(self.path.stat())
        except FileNotFoundError:
            return False

    def read(self, key: str) -> bytes | None:
        """Return the lines about a question, None where it has none. Raises BadFile."""
        member = self._members.get(key)
        if member is None:
            return None
        with _reading(self.path, member.filename), self._zip.open(member) as file:
            content = file.read(member.file_size + 1)
            if len(content) != member.file_size or not content.endswith(b"\n"):
                raise ValueError("it ends too early")
        return content


def write_pack(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write complete files by their keys as a pack, and read it back before and after it takes its name.
    Raises BadFile where it differs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for key, content in sorted(contents.items()):
            member = zipfile.ZipInfo(f"{key}.jsonl", _EPOCH)
            member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, _UNIX
            member.external_attr = _REGULAR_FILE << 16
            file.writestr(member, content, compresslevel=9)

    def check(written: Path) -> None:
        pack = Pack(written)
        if pack.keys != contents.keys() or any(pack.read(key) != contents[key] for key in contents):
            raise BadFile(f"{written} does not hold what was written to it; what was packed is left in place")

    write_whole(path, buffer.getvalue(), check)
    check(path)


def complete_lines(content: bytes) -> list[bytes]:
    """Return the lines of a file without a torn last one."""
    return content.split(b"\n")[:-1]


def joined_lines(contents: list[bytes]) -> bytes:
    """Files about one question as one: the first header, then a line a shard in the order of the images.

    The shards are known to be whole and to agree.
    """
    lines: dict[int, bytes] = {}
    header = b""
    for content in contents:
        first, *shards = (line.rstrip(b"\r") for line in complete_lines(content))
        header = header or first
        for line in shards:
            lines.setdefault(json.loads(line)["start"], line)
    return b"".join(line + b"\n" for line in (header, *(lines[start] for start in sorted(lines))))


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _checked(members: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by their keys. Raises ValueError where one is not what `write_pack` writes."""
    keys: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.filename
        if not _NAME.fullmatch(name):
            raise ValueError(f"its member {name[:80]!r} is not named <key>.jsonl")
        if name[:64] in keys:
            raise ValueError(f"it holds {name} twice")
        if member.flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        if member.compress_type not in _METHODS:
            raise ValueError(f"{name} is compressed by method {member.compress_type}, not by deflate")
        keys[name[:64]] = member
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members overlap")
    return keys


def _check_end(file: IO[bytes], size: int, count: int) -> None:
    """Raise ValueError where the end record does not list `count` members that fill the file.

    zipfile alone reads a list that damage has made shorter, and the answers that it leaves out are missing.
    """
    file.seek(max(size - _END.size, 0))
    mark, _, _, _, listed, length, start, _ = _END.unpack(file.read(_END.size))
    is_zip64 = listed == 0xFFFF or 0xFFFFFFFF in (length, start)  # its numbers stand elsewhere
    if mark != b"PK\5\6" or (not is_zip64 and (listed != count or start + length + _END.size != size)):
        raise ValueError("its list of members does not fit the file")


@contextmanager
def _reading(path: Path, member: str = "") -> Iterator[None]:
    """Raise BadFile for what goes wrong with a zip file."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except _ERRORS as error:
        place = f"{path} (member {member})" if member else str(path)
        raise BadFile(f"{place} is damaged ({one_line(error)}); restore it from a copy") from error
