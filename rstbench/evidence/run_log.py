"""What a run has before it and how far it came, on disk while it goes, for whoever watches. No torch.

`.agenda` is written anew at the start of each run in a folder: first when it began and which networks
it makes, then a line when it begins to ask (from then on `study.toml` is that of this run) with the keys of
its trials, one line for each failure, and one at its end.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..files import write_whole
from .trial import Trial

FILE = ".agenda"


@dataclass(frozen=True)
class Crafting:
    """The keys of the trials that judge the same adversarial images, and the attack that crafts these."""

    attack: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class RunLog:
    """began: seconds since 1970; networks: files to be made, relative to the folder; asking: whether
    `study.toml` is that of this run; craftings: what it asks, none in logs of before 0.2; ended: whether it
    came to its end, with or without faults."""

    began: float
    networks: tuple[str, ...]
    asking: bool = False
    craftings: tuple[Crafting, ...] = ()
    ended: bool = False
    faults: tuple[str, ...] = ()

    @classmethod
    def load(cls, root: Path) -> RunLog | None:
        """What the last run in a folder wrote; None where there is none, or not what this module writes."""
        try:
            lines = (root / FILE).read_text(encoding="utf-8").split("\n")[:-1]  # the last may be torn
            first, *rest = (json.loads(line) for line in lines)
            return cls(
                began=float(first["began"]),
                networks=tuple(map(str, first["networks"])),
                asking=any("asking" in line for line in rest),
                craftings=tuple(
                    Crafting(str(crafting["attack"]), tuple(map(str, crafting["keys"])))
                    for line in rest
                    for crafting in line.get("asking") or ()
                ),
                ended=any("ended" in line for line in rest),
                faults=tuple(str(line["fault"]) for line in rest if "fault" in line),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def begin(root: Path, networks: Iterable[Path]) -> None:
    """A run begins, which makes these files below `root` unless they are there."""
    names = [path.relative_to(root).as_posix() for path in networks]
    write_whole(root / FILE, _line({"began": time.time(), "networks": names}))


def begin_asking(root: Path, trials: Iterable[Trial]) -> None:
    """Note that the run begins to ask these trials. Nothing where none began."""
    keys = defaultdict[Trial, dict[str, None]](dict)
    for trial in trials:
        keys[replace(trial, target=trial.source)][trial.key] = None
    add(root, "asking", [{"attack": trial.attack, "keys": list(judges)} for trial, judges in keys.items()])


def add(root: Path, what: str, value: object = "") -> None:
    """Note that the run has met a `fault`, or has `ended`. Nothing where none began."""
    if (root / FILE).exists():
        with (root / FILE).open("ab") as file:
            file.write(_line({what: value}))


def _line(value: object) -> bytes:
    return (json.dumps(value) + "\n").encode()
