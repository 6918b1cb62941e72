"""How something was made: every setting that decides a ticket or a trained network. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..errors import BadRequest, unknown

SCHEDULES = ("piecewise", "cosine", "one-cycle")
AUGMENTS = ("none", "crop-flip")
SELECTS = ("validation", "last", "test")
ADVERSARIES = ("none", "pgd")


@dataclass(frozen=True)
class Recipe:
    """Settings of a search over scores or of a training of weights, as stored in the files.

    data: 'cifar10:train'; threat: 'Linf:8/255'; adversary: 'none' or 'pgd:steps=7,step=1/4' (step
    in units of eps); schedule of the learning rate over all steps: 'piecewise' (times 0.1 at one half and at
    three quarters), 'cosine' or 'one-cycle'; select: the epoch kept is the best on held-out training
    images ('validation'), the last, or, to repeat the paper, the best on the test set ('test').
    weights and origin tell what a training of weights began from.
    """

    network: str = "conv4"
    width: float = 1.0
    norm: str = "batch"
    data: str = "digits:train"
    method: str = "rst"
    init: str = "signed_constant"
    kept_count: str = "ceil"
    adversary: str = "pgd:steps=7"
    threat: str = "Linf:8/255"
    recipe: str = "paper-cifar"
    epochs: int = 160
    batch: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "piecewise"
    augment: str = "crop-flip"
    select: str = "validation"
    seed: int = 0
    weights: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        for f in fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))  # TOML's 1 for 1.0
            elif type(value) is not kind:
                raise BadRequest(f"{f.name.replace('_', '-')} wants a {kind.__name__}, got {value!r}")
        for name, allowed in (("schedule", SCHEDULES), ("augment", AUGMENTS), ("select", SELECTS)):
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)
        for name in ("epochs", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise BadRequest(f"{name} must be positive, got {getattr(self, name)}")
        if self.batch < 2:
            raise BadRequest(f"batch must be at least 2 for batch norm, got {self.batch}")

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Recipe:
        """A recipe read back from a file; keys it does not know are of a later version: refused."""
        known = {f.name for f in fields(cls)}
        strange = sorted(set(plain) - known)
        if strange:
            raise BadRequest(f"the recipe has settings this version does not know: {', '.join(strange)}")
        return cls(**plain)


# Settings by name. paper-cifar: Fu et al. 2021 (README and configs of their code).
NAMED: dict[str, dict[str, Any]] = {
    "paper-cifar": {},
    "fast": {"epochs": 30, "schedule": "one-cycle"},
    "digits": {"epochs": 12, "batch": 64, "schedule": "cosine", "augment": "none"},
}


# What suits a data set where nothing is said: handwriting must not be mirrored.
BY_DATA: dict[str, dict[str, Any]] = {
    "digits": {"recipe": "digits", "threat": "Linf:0.1"},
    "mnist": {"recipe": "fast", "threat": "Linf:0.3", "augment": "none"},
    "npz": {"recipe": "fast", "augment": "none"},
}


def recipe_for(settings: dict[str, Any]) -> Recipe:
    """A recipe from what a user wrote: over the named recipe, over what suits the data.

    Raises BadRequest for unknown names and values of the wrong kind.
    """
    source = settings.get("data", Recipe.data).partition(":")[0]
    chosen = {**BY_DATA.get(source, {}), **settings}
    return make_recipe(chosen.pop("recipe", Recipe.recipe), chosen)


def make_recipe(name: str, settings: dict[str, Any]) -> Recipe:
    """The named recipe with `settings` laid over it. Raises BadRequest for unknown names."""
    if name not in NAMED:
        raise unknown("recipe", name, NAMED)
    return Recipe(**{"recipe": name, **NAMED[name], **settings})
