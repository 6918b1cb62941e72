"""rstbench: robust scratch tickets, drawn, exported, attacked and ranked.

The names below are loaded when first used: `import rstbench` itself imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AutoAttack": "rstbench.attacks.autoattack",
    "BadRequest": "rstbench.errors",
    "ModelFault": "rstbench.errors",
    "PGD": "rstbench.attacks.pgd",
    "RstbenchError": "rstbench.errors",
    "Switch": "rstbench.tickets.switch",
    "Threat": "rstbench.threat",
    "Ticket": "rstbench.tickets.ticket",
    "benchmark": "rstbench.api",
    "draw": "rstbench.api",
    "evaluate": "rstbench.api",
    "export": "rstbench.api",
    "load_data": "rstbench.api",
    "load_model": "rstbench.api",
    "read_table": "rstbench.reports.csv_io",
    "shared_switch": "rstbench.tickets.switch",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rstbench' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
