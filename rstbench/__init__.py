"""rstbench: robust scratch tickets, drawn, exported, attacked and ranked.

The names below are loaded when first used: `import rstbench` itself imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# What editors and type checkers see of `_MODULES`; one of both alone fails a test.
if TYPE_CHECKING:
    from .api.evaluation import evaluate
    from .api.models import draw, export, load_data, load_model
    from .api.robustbench import benchmark
    from .attacks.autoattack import AutoAttack
    from .attacks.pgd import PGD
    from .attacks.spec import Attack, AttackSpec, Crafted
    from .errors import BadRequest, ModelFault, RstbenchError
    from .flags import Flag, register_flag
    from .reports.csv_io import read_table
    from .threat import Threat
    from .tickets.switch import Switch, shared_switch
    from .tickets.ticket import Ticket

__all__ = ["Attack", "AttackSpec", "AutoAttack", "BadRequest", "Crafted", "Flag", "ModelFault", "PGD"]
__all__ += ["RstbenchError", "Switch", "Threat", "Ticket", "benchmark", "draw", "evaluate", "export"]
__all__ += ["load_data", "load_model", "read_table", "register_flag", "shared_switch"]

_MODULES = {
    "api.evaluation": "evaluate",
    "api.models": "draw export load_data load_model",
    "api.robustbench": "benchmark",
    "attacks.autoattack": "AutoAttack",
    "attacks.pgd": "PGD",
    "attacks.spec": "Attack AttackSpec Crafted",
    "errors": "BadRequest ModelFault RstbenchError",
    "flags": "Flag register_flag",
    "reports.csv_io": "read_table",
    "threat": "Threat",
    "tickets.switch": "Switch shared_switch",
    "tickets.ticket": "Ticket",
}
_PUBLIC = {name: f"rstbench.{module}" for module, names in _MODULES.items() for name in names.split()}

if not TYPE_CHECKING:  # where every name is known, a misspelt one is an error

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'rstbench' has no attribute {name!r}")
        return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
