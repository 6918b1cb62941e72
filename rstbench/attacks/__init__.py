"""What a model is measured with. An attack is a frozen dataclass that is called like a function.

`Attack(model, x, y, threat, generator) -> Crafted`. It knows a model as a callable that returns
logits, and a switch as a callable that also has `members` and `weights`.
"""

from .mixture import Mixture, mean_log_probability, members_of
from .pgd import PGD
from .spec import Attack, Crafted, canonical_text, parse_attack

__all__ = [
    "PGD",
    "Attack",
    "Crafted",
    "Mixture",
    "canonical_text",
    "mean_log_probability",
    "members_of",
    "parse_attack",
]
