"""Hold every flag that a measurement can raise, with its meaning.

A flag is added here and nowhere else. Who raises one imports its constant and stores its `name`; the page,
the RobustBench entries and the documentation read this registry. A plug-in registers its own flags and
offers them as entry points of the group `rstbench.flags`: `report` finds them without loading attacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points

from .errors import BadRequest

UNKNOWN = "Raised by an attack of another package; its documentation says what it means."
_REGISTRY: dict[str, Flag] = {}


@dataclass(frozen=True)
class Flag:
    """A warning that is stored beside a result.

    Args:
        name: One word, such as 'zero-gradient'.
        meaning: A sentence for the page and the documentation.
        doubts_autoattack: Whether AutoAttack's figure may mislead under it.

    Example:
        >>> import rstbench
        >>> rstbench.Flag("frozen", "The attack did not move.").doubts_autoattack
        False
    """

    name: str
    meaning: str
    doubts_autoattack: bool = False


def register_flag(flag: Flag) -> Flag:
    """Add a flag to the registry.

    A plug-in also offers it as an entry point of the group `rstbench.flags`, by which `report` finds it
    without loading the attack.

    Args:
        flag: The flag; the same one may be registered again.

    Returns:
        The flag.

    Raises:
        BadRequest: For a name that is taken with another meaning, or is not one word.

    Example:
        >>> import rstbench
        >>> rstbench.register_flag(rstbench.Flag("zero-gradient", "Something else."))
        Traceback (most recent call last):
            ...
        rstbench.errors.BadRequest: the flag 'zero-gradient' is registered already, with another meaning
    """
    if not flag.name or flag.name.split() != [flag.name]:
        raise BadRequest(f"a flag is one word without spaces, got {flag.name!r}")
    if _REGISTRY.setdefault(flag.name, flag) != flag:
        raise BadRequest(f"the flag {flag.name!r} is registered already, with another meaning")
    return flag


def find_flag(name: str) -> Flag | None:
    """Return the flag of this name, which a package may offer as an entry point `rstbench.flags`; else None.

    Raises BadRequest for an entry point that does not load, or is no flag of its name.
    """
    for point in () if name in _REGISTRY else entry_points(group="rstbench.flags", name=name):
        try:
            flag = point.load()
        except Exception as error:
            raise BadRequest(f"the flag {name!r} of {point.value!r} does not load: {error}") from error
        if not isinstance(flag, Flag) or flag.name != name:
            raise BadRequest(f"the entry point {point.value!r} is no flag named {name!r}")
        register_flag(flag)
    return _REGISTRY.get(name)


def meaning_of(name: str) -> str:
    """Return what a flag means; evidence may hold flags that no package here knows."""
    flag = find_flag(name)
    return flag.meaning if flag else UNKNOWN


def doubts_autoattack(name: str) -> bool:
    """Return whether AutoAttack's figure may mislead under a flag."""
    flag = find_flag(name)
    return flag is not None and flag.doubts_autoattack


def as_markdown() -> str:
    """Return the built-in flags as a table for the documentation."""
    lines = ["| flag | meaning | AutoAttack's figure may mislead |", "|---|---|---|"]
    lines += [
        f"| `{flag.name}` | {flag.meaning} | {'yes' if flag.doubts_autoattack else ''} |"
        for flag in BUILTIN_FLAGS
    ]
    return "\n".join(lines)


def _builtin(name: str, meaning: str, *, doubts_autoattack: bool = False) -> Flag:
    return register_flag(Flag(name, meaning, doubts_autoattack))


BATCH_DEPENDENT = _builtin(
    "batch-dependent",
    "An image alone gets other logits than in its batch, or none at all: no figure is a property of "
    "this model, for each hangs on which images were asked together.",
    doubts_autoattack=True,
)
CHANNELS_ADAPTED = _builtin(
    "channels-adapted",
    "The weights are for images of other channels; their first layer was carried over by timm's rule,"
    " and pixels are normalised by the average over the channels.",
)
FEW_IMAGES = _builtin(
    "few-images",
    "The 95 % interval of the worst case is wider than 10 points: too few images to tell neighbours "
    "in the table apart.",
)
GRADIENT_IN_FORWARD = _builtin(
    "gradient-in-forward",
    "The model computes gradients inside its forward pass: AutoAttack's authors advise an attack made"
    " for it.",
    doubts_autoattack=True,
)
MATCHED_BY_ORDER = _builtin(
    "matched-by-order",
    "The layers of the checkpoint have other names than those of the network; they were matched by "
    "their order.",
)
MORE_ROBUST_AT_LARGER_EPS = _builtin(
    "more-robust-at-larger-eps",
    "Accuracy rises with eps, though every image of the smaller ball lies in the larger one: there an"
    " attack was weaker, or fewer were asked.",
)
NON_FINITE_LOGITS = _builtin(
    "non-finite-logits",
    "Under attack the model gave logits that are not finite. Such images are wrong.",
)
NORMALISATION_DOUBTFUL = _builtin(
    "normalisation-doubtful",
    "Clean accuracy is clearly higher under another known normalisation, or none: this model was "
    "probably not given the pixels it was trained on.",
)
NOT_ATTACKED_JOINTLY = _builtin(
    "not-attacked-jointly",
    "The attack that fools the members of a switch together was not asked, as it is by who asks "
    "autoattack: what the switch seems to gain may be what weaker attacks leave.",
)
PROBABILITIES_NOT_LOGITS = _builtin(
    "probabilities-not-logits",
    "The outputs sum to one: they look like probabilities. Gradients of losses that want logits are "
    "then too small, and attacks too weak.",
    doubts_autoattack=True,
)
RANDOM_OUTPUT = _builtin(
    "random-output",
    "Two passes over the same images differ: the model draws random numbers, and one measurement of "
    "it is one draw.",
    doubts_autoattack=True,
)
SAMPLED_SWITCH = _builtin(
    "sampled-switch",
    "AutoAttack saw one random draw of the switch a call, not its mean: the wrong way to attack it, "
    "and too weak.",
)
SELECTED_ON_TEST = _builtin(
    "selected-on-test",
    "The epoch that was kept, or the weights of the switch, were chosen on test images, as in the "
    "paper. That flatters the figure.",
)
SQUARE_BEATS_GRADIENT = _builtin(
    "square-beats-gradient",
    "Square, which sees no gradient, broke images that the gradient attacks before it did not: the "
    "gradients may be masked.",
    doubts_autoattack=True,
)
TRANSFER_BEATS_WHITE_BOX = _builtin(
    "transfer-beats-white-box",
    "Images crafted against another model or a switch fool this one more often than its own by the "
    "same attack do, or than all its own together: these are too weak.",
    doubts_autoattack=True,
)
UNLEARNT_MASK = _builtin(
    "unlearnt-mask",
    "The search ended with the mask it began at: what was measured is a random mask.",
)
WEAKER_THAN_PGD = _builtin(
    "weaker-than-pgd",
    "AutoAttack left more images right than PGD did.",
    doubts_autoattack=True,
)
ZERO_GRADIENT = _builtin(
    "zero-gradient",
    "For some images the gradient is exactly zero: attacks that follow it stand still.",
    doubts_autoattack=True,
)
BUILTIN_FLAGS = tuple(_REGISTRY[name] for name in sorted(_REGISTRY))
