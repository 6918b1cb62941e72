"""Read what making networks took: `costs.jsonl`, beside their files. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..limits import read_text
from ..parsing import parse_json

COSTS_FILE = "costs.jsonl"


@dataclass(frozen=True)
class Cost:
    """Hold the cost of one network.

    seconds: wall clock; peak_mib: peak memory above that at the start, of the process or, on a GPU, of
    tensors, None where it is unknown; resumed: part of the work was done before, and is not counted.
    """

    name: str
    seconds: float
    peak_mib: float | None
    device: str
    threads: int
    resumed: bool = False


def read_costs(path: Path) -> dict[str, Cost]:
    """Return the last whole line of each name; {} where there is no file."""
    if not path.exists():
        return {}
    costs = {}
    for line in read_text(path).splitlines():
        try:
            cost = Cost(**parse_json(line))
            costs[str(cost.name)] = cost
        except (ValueError, TypeError):
            continue  # a line cut by a kill: its cost is unknown
    return costs
