"""Define recipes: every setting that decides a ticket or a trained network. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from fractions import Fraction
from typing import Any, TypeVar

from ..errors import BadRequest, unknown
from ..networks.choices import INITS, NORM_LAYERS
from ..parsing import exact_number

T = TypeVar("T", bool, int, float, str)
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


def setting(default: T, text: str, verbs: tuple[str, ...] = ("draw", "train"), option: str = "") -> T:
    """Return a field that is an option of these verbs and a key of a study's tables, with its help text.

    option: its name there, where it is another. What CHOICES and FORMS hold is added to the text.
    """
    return field(default=default, metadata={"text": text, "verbs": verbs, "option": option})


@dataclass(frozen=True)
class Recipe:
    """Hold the settings of a search over scores or of a training of weights, as stored in the files.

    Each field is an option of `draw` and `train`, a key of study files, an argument in Python, and holds its
    help text. adversary: see `training.adversaries`; pattern, allocation, dense, floor, kept_count: see
    `tickets.allocation`; scale: by 1/sqrt(k); drops: fractions of all steps; select: on held-out images
    ('validation'), the last epoch, or, to repeat the paper, on the test set ('test'); origin: digest of
    what a training or a drawing began from.

    A new field: the default of a bool is False, `verbs` is ("draw",) for drawings alone, and one that shapes
    the network is also one of `networks.network.NetworkSpec` and of `study.plan.OF_NETWORK`. It changes the
    digests of shared switches, which keep their recipe: `tests/known/test_identity.py` pins them.
    """

    network: str = setting("conv4", "conv4, resnet18, wrn-28-10, torchvision:resnet50, …")
    width: float = setting(1.0, "multiplier of the network's widths")
    norm: str = setting("batch", "batch norm without affine parameters (batch) or with (affine), or none")
    last_norm: bool = setting(False, "batch norm on the logits")
    normalize: str = setting("", "a first layer for the pixels: cifar10, MEAN/STD, …")
    data: str = setting("digits:train", "data set to learn from: digits, mnist, cifar10, npz:FILE")
    method: str = setting(
        "rst", "how the mask is found (default: rst); see 'rstbench list methods'", ("draw",)
    )
    init: str = setting("signed_constant", "distribution of the random weights")
    scale: bool = setting(False, "scale random weights as if the kept fraction were the fan in", ("draw",))
    pattern: str = setting("element", "what is kept or dropped as one", ("draw",))
    allocation: str = setting("uniform", "ratio of each layer", ("draw",))
    dense: str = setting("", "layers that keep all", ("draw",))
    floor: bool = setting(False, "every output keeps a weight", ("draw",))
    kept_count: str = setting("ceil", "rounding of the number of kept weights", ("draw",))
    attack_bn: str = setting("train", "mode of batch norm in the inner attack (train: as in the paper)")
    adversary: str = setting("pgd:steps=7", "attack during learning")
    threat: str = setting("Linf:8/255", "what its images may look like")
    recipe: str = setting("paper-cifar", "named defaults of all settings; see 'rstbench list recipes'")
    epochs: int = setting(160, "passes over the data")
    batch: int = setting(256, "images of a step")
    lr: float = setting(0.1, "largest learning rate")
    momentum: float = setting(0.9, "of SGD")
    weight_decay: float = setting(5e-4, "on what is trained, scores or weights")
    schedule: str = setting("piecewise", "of the learning rate (piecewise: times 0.1 at each of --drops)")
    drops: str = setting("1/2+3/4", "where a piecewise rate drops")
    label_smoothing: float = setting(0.0, "probability that is shared among all classes")
    precision: str = setting("float32", "bf16 computes the network in mixed precision")
    channels_last: bool = setting(False, "memory order of the network")
    augment: str = setting("crop-flip", "random changes of the images")
    select: str = setting("validation", "which epoch is kept: the best on these images, or the last")
    seed: int = setting(0, "of weights, scores, order and attacks")
    weights: str = setting("", "what a ticket's weights begin as, with --from (default: inherit)", ("train",))
    origin: str = setting("", "", ())

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
            points = tuple(map(exact_number, self.drops.split("+")))
        except ValueError:
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


@dataclass(frozen=True)
class DrawOptions:
    """Hold the options of drawing that are no settings of a recipe, for they are not stored in the files.

    Each field is an option of `draw`, a key of [[draw]] and an argument in Python; methods read it in
    `Search.options`.
    """

    store_weights: bool = setting(
        True, "never store the random weights, only their seed", ("draw",), option="no_weights"
    )

    @classmethod
    def split(cls, settings: Mapping[str, Any]) -> tuple[DrawOptions, dict[str, Any]]:
        """Return the options among a user's settings, and the settings of the recipe. Raises BadRequest."""
        rest, values = dict(settings), dict[str, Any]()
        for f in (f for f in fields(cls) if _option(f) in settings):
            value = rest.pop(_option(f))
            if type(value) is not type(f.default):
                raise BadRequest(f"{_option(f)} wants a {type(f.default).__name__}, got {value!r}")
            values[f.name] = not value if f.default is True else value
        return cls(**values), rest

    def as_plain(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, as `split` reads them."""
        given = {f: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {_option(f): True if type(value) is bool else value for f, value in given.items()}


def _option(f: Field[Any]) -> str:
    return f.metadata["option"] or f.name


def offered(verb: str) -> dict[str, Field[Any]]:
    """Return the fields that a verb offers as options, by their names there."""
    return {_option(f): f for f in (*fields(Recipe), *fields(DrawOptions)) if verb in f.metadata["verbs"]}


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
    for key in settings:
        if key not in (known := [f.name for f in fields(Recipe)]):
            raise unknown("setting", str(key), known)
    return Recipe(**{"recipe": name, **NAMED[name], **settings})
