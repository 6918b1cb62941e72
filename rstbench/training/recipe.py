"""Define recipes: every setting that decides a ticket or a trained network. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from ..errors import BadRequest, unknown
from ..networks.choices import INITS, NORM_LAYERS

CHOICES = {
    "init": tuple(INITS),
    "norm": NORM_LAYERS,
    "dense": ("", "first", "last", "first+last"),
    "weights": ("", "inherit", "reinit", "reinit-kaiming"),
    "schedule": ("piecewise", "cosine", "one-cycle", "constant"),
    "augment": ("none", "crop-flip"),
    "select": ("validation", "last", "test"),
    "attack_bn": ("train", "eval"),
    "precision": ("float32", "bf16"),
    "kept_count": ("ceil", "authors"),
}
PATTERNS = ("element", "row", "kernel", "filter")  # what one score decides on
# Settings whose names may hold numbers, an example of each form.
FORMS = {
    "pattern": (*PATTERNS, "N:M"),
    "allocation": ("uniform", "p:0.1", "global"),
    "threat": ("Linf:8/255", "L2:0.5", "L1:12"),
    "drops": ("1/2+3/4",),
    "adversary": (
        "none",
        "fgsm",
        "fgsm-rs:step=5/4",
        "pgd:steps=7,step=1/4",
        "free:m=4",
        "trades:beta=6,steps=10,step=1/4",
    ),
}


@dataclass(frozen=True)
class Recipe:
    """Hold the settings of a search over scores or of a training of weights, as stored in the files.

    last_norm: batch norm on the logits; normalize: a first layer for the pixels, such as 'cifar10'; data:
    'cifar10:train'; threat: 'Linf:8/255'; adversary: see `training.adversaries`; pattern, allocation, dense,
    floor, kept_count: see `tickets.allocation`; scale: the random weights are scaled as if the kept fraction
    were the fan in (by 1/sqrt(k)); schedule: of the learning rate over all steps, 'piecewise' (times 0.1 at
    each of `drops`), 'cosine', 'one-cycle' or 'constant'; weight_decay: on what is trained, scores or
    weights; attack_bn: mode of batch norm while the inner attack runs, 'train' as in the paper, or 'eval';
    precision: 'bf16' computes the network in mixed precision; channels_last: memory order of the network;
    select: the epoch kept is the best on held-out training images ('validation'), the last, or, to repeat the
    paper, the best on the test set ('test'); weights: what the weights of a ticket begin its training as;
    origin: digest of the ticket or model that a training or a drawing began from.
    """

    network: str = "conv4"
    width: float = 1.0
    norm: str = "batch"
    last_norm: bool = False
    normalize: str = ""
    data: str = "digits:train"
    method: str = "rst"
    init: str = "signed_constant"
    scale: bool = False
    pattern: str = "element"
    allocation: str = "uniform"
    dense: str = ""
    floor: bool = False
    kept_count: str = "ceil"
    attack_bn: str = "train"
    adversary: str = "pgd:steps=7"
    threat: str = "Linf:8/255"
    recipe: str = "paper-cifar"
    epochs: int = 160
    batch: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "piecewise"
    drops: str = "1/2+3/4"
    label_smoothing: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
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
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise unknown(name.replace("_", "-"), getattr(self, name), allowed)
        if not 0 <= self.label_smoothing < 1:
            raise BadRequest(f"label-smoothing is at least 0 and below 1, got {self.label_smoothing:g}")
        self.milestones()
        for name in ("epochs", "batch", "lr", "width"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadRequest(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.momentum >= 1:
            raise BadRequest(f"momentum must be below 1, got {self.momentum:g}")
        for name in ("momentum", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < 2**31:
                raise BadRequest(f"{name.replace('_', '-')} must be from 0 on, got {getattr(self, name)}")
        if self.batch < 2:
            raise BadRequest(f"batch must be at least 2 for batch norm, got {self.batch}")

    def milestones(self) -> tuple[Fraction, ...]:
        """Return the fractions of all steps after which a piecewise rate drops. Raises BadRequest."""
        try:
            points = tuple(Fraction(part) for part in self.drops.split("+"))
        except (ValueError, ZeroDivisionError):
            points = (Fraction(0),)
        if not all(0 < point < 1 for point in points):
            raise BadRequest(f"drops are fractions of all steps such as '1/2+3/4', got {self.drops!r}")
        return points

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Recipe:
        """Return a recipe read from a file. Raises BadRequest for keys of a later version."""
        unknown_keys = sorted(set(plain) - {f.name for f in fields(cls)})
        if unknown_keys:
            raise BadRequest(f"the recipe has settings this version does not know: {', '.join(unknown_keys)}")
        return cls(**plain)


# Settings by name. paper-cifar: Fu et al. 2021 (README and configs of their code).
NAMED: dict[str, dict[str, Any]] = {
    "paper-cifar": {},
    "paper-imagenet": {
        "epochs": 90,
        "lr": 0.256,
        "momentum": 0.875,
        "weight_decay": 2**-15,
        "drops": "1/3+2/3",
        "init": "kaiming_normal",
        "adversary": "pgd:steps=2,step=1/2",
        "threat": "Linf:4/255",
    },
    "fast": {"epochs": 30, "schedule": "one-cycle"},
    "digits": {"epochs": 12, "batch": 64, "schedule": "cosine", "augment": "none"},
}


# Defaults for a data set: handwriting must not be mirrored.
BY_DATA: dict[str, dict[str, Any]] = {
    "digits": {"recipe": "digits", "threat": "Linf:0.1"},
    "mnist": {"recipe": "fast", "threat": "Linf:0.3", "augment": "none"},
    "fashionmnist": {"recipe": "fast", "threat": "Linf:0.1", "augment": "none"},
    "svhn": {"augment": "none"},
    "npz": {"recipe": "fast", "augment": "none"},
}


# Defaults for a method, as it was published. Without learnt scores one pass calibrates batch norm.
BY_METHOD: dict[str, dict[str, Any]] = {
    "random": {"epochs": 1},
    "magnitude": {"epochs": 1},
    "snip": {"epochs": 1, "allocation": "global"},
    "grasp": {"epochs": 1, "allocation": "global"},
    "awt": {"epochs": 1},
    "awt-moved": {"epochs": 1},
    "aws": {"epochs": 1, "norm": "affine", "allocation": "global", "dense": "last"},
}


def recipe_for(settings: dict[str, Any]) -> Recipe:
    """Return the recipe of a user's settings, laid over the defaults of method and data, over the named one.

    Raises BadRequest for unknown names and values of the wrong kind.
    """
    source = str(settings.get("data", Recipe.data)).partition(":")[0]
    method = str(settings.get("method", Recipe.method)).partition(":")[0]
    merged = {**BY_DATA.get(source, {}), **BY_METHOD.get(method, {}), **settings}
    return make_recipe(merged.pop("recipe", Recipe.recipe), merged)


def make_recipe(name: str, settings: dict[str, Any]) -> Recipe:
    """Return the named recipe with `settings` laid over it. Raises BadRequest for unknown names."""
    if str(name) not in NAMED:
        raise unknown("recipe", str(name), NAMED)
    return Recipe(**{"recipe": name, **NAMED[name], **settings})
