"""Make the cases of each kind of input, from valid ones."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from tests.fuzz import mutations as m
from tests.fuzz import seeds

Make = Callable[[Random], Any]


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


class _Canary:
    """What a hostile pickle holds: a call of a program."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CANARIES = [
    pickle.dumps({"state_dict": {"w": _Canary(function, *arguments)}}, protocol)
    for function, *arguments in (
        (os.system, "touch canary"),
        (eval, "open('canary', 'w')"),
        (exec, "open('canary', 'w')"),
        (print, "canary"),
        (open, "canary", "w"),
        (__import__, "antigravity"),
        (bytearray, 10**9),
        (list, range(10**9)),
    )
    for protocol in (0, 2, 4)
]


def torch_file(content: bytes, random: Random) -> bytes:
    """Damage a file of torch.save, or put a hostile pickle in its place or that of its list of tensors."""
    kind = random.randrange(8)
    if kind == 0:
        return random.choice(CANARIES)
    if not content.startswith(b"PK"):
        return m.mutated_bytes(content, random)
    if kind == 1:
        return m.mutated_zip(content, random, lambda data, _: random.choice(CANARIES))
    return m.mutated_zip(content, random)


def manifest_value(content: bytes, random: Random) -> bytes:
    """Damage the values of a TOML file, or its text where that gives none."""
    import tomllib

    try:
        return _toml(m.mutated_value(tomllib.loads(content.decode()), random))
    except (TypeError, ValueError, AttributeError, RecursionError):
        return m.mutated_bytes(content, random)


def _toml(plain: dict[str, Any]) -> bytes:
    import tomli_w

    return tomli_w.dumps(plain).encode()


def in_run(
    mutate: Callable[[bytes, Random], bytes], start: str
) -> Callable[[Any, Random], tuple[str, bytes]]:
    """Damage one file of a run whose name begins so."""

    def mutated(files: dict[str, bytes], random: Random) -> tuple[str, bytes]:
        name = random.choice([name for name in files if name.startswith(start)])
        return name, mutate(files[name], random)

    return mutated


def study() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(seeds.STUDY)


def damaged_picture(content: bytes, random: Random) -> bytes:
    return (m.mutated_png if content.startswith(b"\x89PNG") else m.mutated_bytes)(content, random)


def one_of(case: tuple[bytes, ...], random: Random) -> tuple[bytes, ...]:
    """Damage one file of several."""
    chosen = random.randrange(len(case))
    return tuple(
        m.mutated_bytes(content, random) if i == chosen else content for i, content in enumerate(case)
    )


damaged_arrays = partial(m.mutated_zip, inner=m.mutated_bytes)
