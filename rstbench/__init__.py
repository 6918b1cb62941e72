"""rstbench: robust scratch tickets, drawn, exported, attacked and ranked.

The names below are loaded when first used: `import rstbench` itself imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# What editors and type checkers see of `_PUBLIC`; one of both alone fails a test.
if TYPE_CHECKING:
    from .api.evaluation import evaluate as evaluate
    from .api.models import draw as draw
    from .api.models import export as export
    from .api.models import load_data as load_data
    from .api.models import load_model as load_model
    from .api.robustbench import benchmark as benchmark
    from .attacks.autoattack import AutoAttack as AutoAttack
    from .attacks.pgd import PGD as PGD
    from .attacks.spec import Attack as Attack
    from .attacks.spec import AttackSpec as AttackSpec
    from .attacks.spec import Crafted as Crafted
    from .errors import BadRequest as BadRequest
    from .errors import ModelFault as ModelFault
    from .errors import RstbenchError as RstbenchError
    from .flags import Flag as Flag
    from .flags import register_flag as register_flag
    from .reports.csv_io import read_table as read_table
    from .threat import Threat as Threat
    from .tickets.switch import Switch as Switch
    from .tickets.switch import shared_switch as shared_switch
    from .tickets.ticket import Ticket as Ticket

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
__all__ = sorted(_PUBLIC)  # noqa: PLE0605

if not TYPE_CHECKING:  # where every name is known, a misspelt one is an error

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'rstbench' has no attribute {name!r}")
        return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
