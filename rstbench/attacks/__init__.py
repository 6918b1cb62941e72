"""Attacks: frozen dataclasses that are called like functions.

`attack(model, x, y, threat, generator) -> Crafted`. A model is a callable that returns logits; a switch also
has `members` and `weights`. A new attack is a module beside these and a line in `plugins.BUILTIN`.
"""

from .mixture import Mixture, mean_log_probability, members_of
from .pgd import PGD
from .spec import Attack, AttackSpec, Crafted

__all__ = ["PGD", "Attack", "AttackSpec", "Crafted", "Mixture", "mean_log_probability", "members_of"]
