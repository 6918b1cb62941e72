"""Write and read the log of a run, `.agenda`, from which `status` tells how far it is. No torch.

It is written anew at the start of each run in a folder, a line of JSON for each event: first when the run
began and which networks it makes, then one when it begins to attack (from then on `study.toml` is its
manifest) with the keys of its trials, one when it goes back to making networks, one for each failure, and
one at its end.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BadFile
from ..files import write_whole
from ..limits import read_text
from ..parsing import parse_json
from .trial import Trial

RUN_LOG_FILE = ".agenda"


@dataclass(frozen=True)
class CraftingLog:
    """Hold the keys of trials that judge the same adversarial images, and the attack that crafts these."""

    attack: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class RunLog:
    """Hold the log of a run.

    began: seconds since 1970; networks: files to be made, below the folder; asking: whether `study.toml` is
    that of this run; craftings: what it asks, none in logs of before 0.2; ended: whether it came to its end,
    with or without faults.
    """

    began: float
    networks: tuple[str, ...]
    asking: bool = False
    craftings: tuple[CraftingLog, ...] = ()
    ended: bool = False
    faults: tuple[str, ...] = ()

    @classmethod
    def load(cls, root: Path) -> RunLog | None:
        """Read the log of the last run in a folder; None where there is none, or another file."""
        try:
            lines = read_text(root / RUN_LOG_FILE).split("\n")[:-1]  # the last may be torn
            first, *rest = map(parse_json, lines)
            stages = [line for line in rest if "asking" in line or "making" in line]
            asked = stages[-1].get("asking") if stages else None
            return cls(
                began=float(first["began"]),
                networks=tuple(map(str, first["networks"])),
                asking=asked is not None,
                craftings=tuple(
                    CraftingLog(str(crafting["attack"]), tuple(map(str, crafting["keys"])))
                    for crafting in asked or ()
                ),
                ended=any("ended" in line for line in rest),
                faults=tuple(dict.fromkeys(str(line["fault"]) for line in rest if "fault" in line)),
            )
        except (OSError, BadFile, ValueError, KeyError, TypeError, AttributeError):
            return None


def begin(root: Path, networks: Iterable[Path]) -> None:
    """Begin the log of a run that makes these files below `root` unless they are there."""
    names = [path.relative_to(root).as_posix() for path in networks]
    write_whole(root / RUN_LOG_FILE, _line({"began": time.time(), "networks": names}))


def begin_asking(root: Path, trials: Iterable[Trial]) -> None:
    """Note that the run begins to ask these trials. Nothing where none began."""
    keys = defaultdict[Trial, dict[str, None]](dict)
    for trial in trials:
        keys[replace(trial, target=trial.source)][trial.key] = None
    add(root, "asking", [{"attack": trial.attack, "keys": list(judges)} for trial, judges in keys.items()])


def add(root: Path, event: str, value: object = "") -> None:
    """Note that the run has met a `fault`, goes on `making` networks, or has `ended`; nothing where no run
    began."""
    if (root / RUN_LOG_FILE).exists():
        with (root / RUN_LOG_FILE).open("ab") as file:
            file.write(_line({event: value}))


def _line(value: object) -> bytes:
    return (json.dumps(value) + "\n").encode()
