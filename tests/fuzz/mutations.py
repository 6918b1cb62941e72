"""Damage valid inputs: bytes, texts, plain values, and the archives and containers that hold them."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (
    "0", "-1", "1", "255", "1e999", "1e999999999", "1e-999999999", "-0", "nan", "inf", "1/0", "0/0", "1/3", "1_0",
    "9" * 30, "9" * 5000, "0." + "3" * 5000, "٣", "²", "１２", "0x10", "1e5", "2147483648", "18446744073709551616",
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\n", "\r\n", "\t", "\x1b[31m", "\u202e", "\u2028", "\ufeff", "é", "\U0001f600", "a\u0301", "'",
    '"', '"""', "\\", "=1+1", "@x", "-", "+", "<script>", "&lt;", "{{x}}", "%s", "{0}", "$(x)", "`x`", "../", "..",
    "/etc/passwd", "~", "~root", "C:\\", "//", ":", "::", "[", "]", "[[", "]]", "[a=1]", ",", "=", "+", "/", "x" * 3000,
    "[" * 300, "{" * 300, ":test:10", "digits", "pgd", "Linf:8/255", "file:", "__class__", "None", "true", "null",
)  # fmt: skip
VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 1, lambda: 2**31, lambda: 2**63,
    lambda: 10**400, lambda: -(10**400), lambda: 1e308, lambda: -0.0, lambda: 0.5, lambda: float("inf"),
    lambda: float("nan"), list, dict, lambda: [[]], lambda: [0], lambda: {"a": 1}, lambda: [None] * 50,
    lambda: _nested(50), lambda: _nested(200),
)  # fmt: skip
SPECIAL = (0, 0xFF, 0x7F, 0x80, 0x2E, 0x5B, 0x7B, 0x22, 0x0A)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Flip, cut, insert, repeat, swap, and write extreme numbers, at one place or at a few."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        place, size = random.randrange(len(data) + 1), min(random.choice((1, 2, 4, 8, 64, 512)), len(data))
        kind = random.randrange(9)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << random.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = random.choice(SPECIAL)
        elif kind == 2:
            del data[place : place + size]
        elif kind == 3:
            data[place:place] = random.randbytes(size)
        elif kind == 4:
            data[place:place] = data[place : place + size]
        elif kind == 5:
            del data[place:]
        elif kind == 6:
            order = random.choice(("little", "big"))
            width = random.choice((1, 2, 4, 8))
            number = random.choice(
                (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), random.getrandbits(8 * width))
            )
            data[place : place + width] = number.to_bytes(width, order)
        elif kind == 7:
            other = random.randrange(len(data) + 1)
            data[place : place + size], data[other : other + size] = (
                data[other : other + size],
                data[place : place + size],
            )
        else:
            data[place:place] = random.choice((*TEXTS, *NUMBERS)).encode()
    return bytes(data)


def mutated_text(text: str, random: Random) -> str:
    """Cut, repeat, swap, and put odd texts and numbers in, at one place or at a few."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((0, 0, 1, 1, 2, 5, 20)))
        kind = random.randrange(5)
        if kind == 0:
            new = random.choice(TEXTS)
        elif kind == 1:
            new = random.choice(NUMBERS)
        elif kind == 2:
            new = ""
        elif kind == 3:
            new = text[start:end] * random.choice((2, 3, 100))
        else:
            new = "".join(
                chr(random.choice((random.randrange(128), random.randrange(0xD800)))) for _ in range(3)
            )
        text = (text[:start] + new + text[end:])[:20_000]
    return text


def mutated_value(plain: Any, random: Random) -> Any:
    """Replace, remove, add and swap values and keys anywhere in nested lists and dictionaries."""
    root = copy.deepcopy(plain)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        holders = [node for node in _nodes(root) if node]
        if not holders:
            break
        holder = random.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key, kind = random.choice(keys), random.randrange(6)
        if kind == 0:
            holder[key] = random.choice(VALUES)()
        elif kind == 1:
            holder[key] = random.choice((*TEXTS, *NUMBERS))
        elif kind == 2:
            del holder[key]
        elif kind == 3:
            donor = random.choice(holders)
            other = random.choice(list(donor.values()) if isinstance(donor, dict) else donor)
            holder[key] = copy.deepcopy(other)
        elif kind == 4 and isinstance(holder[key], str):
            holder[key] = mutated_text(holder[key], random)
        elif isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder[key]
        else:
            holder.append(holder[key])
    return root


def _nodes(value: Any) -> list[Any]:
    found, level = [], [value]
    while level:
        node = level.pop()
        if isinstance(node, dict | list):
            found.append(node)
            level += node.values() if isinstance(node, dict) else node
    return found


def mutated_json(content: bytes, random: Random) -> bytes:
    """Damage a JSON text in its values, or one time in four in its bytes."""
    if random.randrange(4) == 0 or content[:1] not in (b"{", b"["):
        return mutated_bytes(content, random)
    return json.dumps(mutated_value(json.loads(content), random), ensure_ascii=random.random() < 0.5).encode(
        "utf-8", "replace"
    )


def mutated_lines(content: bytes, random: Random) -> bytes:
    """Damage one line of JSON lines, or their order."""
    lines = content.split(b"\n")[:-1]
    place = random.randrange(len(lines))
    lines[place] = mutated_json(lines[place], random)
    if random.randrange(8) == 0:
        random.shuffle(lines)
    return b"\n".join(lines) + random.choice((b"\n", b"\n", b"\n", b""))


def mutated_zip(
    content: bytes, random: Random, inner: Callable[[bytes, Random], bytes] = mutated_bytes
) -> bytes:
    """Damage a member of a zip archive and write it anew, rename it, or damage the archive's own bytes."""
    kind = random.randrange(6)
    if kind < 2:
        return mutated_bytes(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [[info.filename, archive.read(info)] for info in archive.infolist()]
    chosen = random.choice(members)
    if kind == 2:
        chosen[0] = random.choice(
            (f"../{chosen[0]}", f"/{chosen[0]}", mutated_text(chosen[0], random), members[0][0])
        )
    elif kind == 3:
        members.remove(chosen)
    else:
        chosen[1] = inner(chosen[1], random)
    return zipped(members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def zipped(members: Any, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of (name, content)."""
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def mutated_safetensors(content: bytes, random: Random) -> bytes:
    """Damage the header of a safetensors file in its values, its length, or any bytes."""
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], content[8 + size :]
    kind = random.randrange(5)
    if kind == 0:
        return mutated_bytes(content, random)
    if kind == 1:
        size = random.choice((0, 1, size - 1, size + 1, len(content), 2**32, 2**63, 2**64 - 1))
        return size.to_bytes(8, "little") + header + data
    plain = json.loads(header)
    about = json.loads(plain.get("__metadata__", {}).get("rstbench", "{}"))
    if about and kind != 2:
        plain["__metadata__"]["rstbench"] = json.dumps(mutated_value(about, random))
    else:
        plain = mutated_value(plain, random)
    header = json.dumps(plain).encode()
    return len(header).to_bytes(8, "little") + header + data


def mutated_png(content: bytes, random: Random) -> bytes:
    """Damage a chunk of a PNG and mend its checksum, so that the decoder goes on; or any bytes."""
    if random.randrange(3) == 0:
        return mutated_bytes(content, random)
    chunks, place = [], 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append([content[place + 4 : place + 8], content[place + 8 : place + 8 + size]])
        place += size + 12
    chosen = random.choice(chunks)
    chosen[1] = mutated_bytes(chosen[1], random)
    if random.randrange(6) == 0:
        chunks.append(random.choice(chunks))
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
