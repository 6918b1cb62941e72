"""The log of a run, `.agenda`, from which `status` tells how far it is. No torch.

It is written anew at the start of each run in a folder, a line of JSON for each event: first when the run
began and which networks it makes, then one when it begins to attack (from then on `study.toml` is its
manifest), one for each failure, and one at its end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..files import write_whole

FILE = ".agenda"


@dataclass(frozen=True)
class RunLog:
    """What a run wrote of itself.

    began: seconds since 1970; networks: files to be made, below the folder; asking: whether `study.toml`
    is that of this run; ended: whether it came to its end, with or without faults.
    """

    began: float
    networks: tuple[str, ...]
    asking: bool = False
    ended: bool = False
    faults: tuple[str, ...] = ()

    @classmethod
    def load(cls, root: Path) -> RunLog | None:
        """Read the log of the last run in a folder; None where there is none, or another file."""
        try:
            lines = (root / FILE).read_text(encoding="utf-8").split("\n")[:-1]  # the last may be torn
            first, *rest = (json.loads(line) for line in lines)
            return cls(
                began=float(first["began"]),
                networks=tuple(map(str, first["networks"])),
                asking=any("asking" in line for line in rest),
                ended=any("ended" in line for line in rest),
                faults=tuple(str(line["fault"]) for line in rest if "fault" in line),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def begin(root: Path, networks: Iterable[Path]) -> None:
    """Begin the log of a run that makes these files below `root` unless they are there."""
    names = [path.relative_to(root).as_posix() for path in networks]
    write_whole(root / FILE, _line({"began": time.time(), "networks": names}))


def add(root: Path, event: str, text: str = "") -> None:
    """Note that the run is `asking`, has met a `fault`, or has `ended`; nothing where no run began."""
    if (root / FILE).exists():
        with (root / FILE).open("ab") as file:
            file.write(_line({event: text}))


def _line(value: object) -> bytes:
    return (json.dumps(value) + "\n").encode()
