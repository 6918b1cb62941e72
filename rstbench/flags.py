"""Hold every flag that a measurement can raise, with its meaning.

A flag is added here and nowhere else. Who raises one imports its constant and stores its `name`; the page
and the RobustBench entries read this registry, and `python -m rstbench.flags`, run in a clone, rewrites the
table in `docs/attacks.md`. A plug-in registers its own flags and offers them as entry points of the group
`rstbench.flags`: `report` finds them without loading attacks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

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
    rows = (f"| `{f.name}` | {f.meaning} | {'yes' if f.doubts_autoattack else ''} |" for f in BUILTIN_FLAGS)
    return "\n".join(["| flag | meaning | AutoAttack's figure may mislead |", "|---|---|---|", *rows])


def _builtin(name: str, meaning: str, *, doubts_autoattack: bool = False) -> Flag:
    return register_flag(Flag(name, meaning, doubts_autoattack))


_doubting = partial(_builtin, doubts_autoattack=True)  # AutoAttack's figure may mislead


ACCELERATION_WEAKENED = _doubting(
    "acceleration-weakened",
    "A sample of the images that survived the fast attack was attacked without the copy, and more fell than "
    "chance explains; run again with `--crafting exact`.",
)
BATCH_DEPENDENT = _doubting(
    "batch-dependent",
    "Logits depend on the other images of the batch, so no figure describes the model alone.",
)
CHANNELS_ADAPTED = _builtin(
    "channels-adapted",
    "The weights were trained on images with another number of channels. The first layer was "
    "converted by timm's rule, and pixels are normalised by the mean over the channels.",
)
FEW_IMAGES = _builtin(
    "few-images",
    "The confidence interval of the worst case is wider than 10 points: too few images to tell "
    "neighbours in the table apart.",
)
GRADIENT_IN_FORWARD = _doubting(
    "gradient-in-forward",
    "The model computes gradients inside its forward pass. AutoAttack's authors advise an adaptive "
    "attack for such models.",
)
MATCHED_BY_ORDER = _builtin(
    "matched-by-order",
    "The layer names of the checkpoint differ from those of the network, so the layers were matched "
    "by their order.",
)
MORE_ROBUST_AT_LARGER_EPS = _builtin(
    "more-robust-at-larger-eps",
    "Accuracy is higher than at a smaller eps, which is impossible for the best attack. The attacks "
    "at this eps were weaker, or there were fewer of them.",
)
NON_FINITE_LOGITS = _builtin(
    "non-finite-logits",
    "Under attack the model returned logits that are not finite. Such images count as wrong.",
)
NORMALISATION_DOUBTFUL = _builtin(
    "normalisation-doubtful",
    "Clean accuracy is clearly higher with another known normalisation, or with none. The model "
    "probably did not get pixels as in its training.",
)
NOT_ATTACKED_JOINTLY = _builtin(
    "not-attacked-jointly",
    "The joint attack on the members of the switch was not run (it runs automatically with "
    "autoattack). The gain over its members may be overestimated.",
)
PROBABILITIES_NOT_LOGITS = _doubting(
    "probabilities-not-logits",
    "The outputs sum to one, so they look like probabilities. Losses that expect logits then have too "
    "small gradients, and attacks are too weak.",
)
RANDOM_OUTPUT = _doubting(
    "random-output",
    "Two passes over the same images give different outputs: the model is random, and its figures are "
    "those of one draw.",
)
SAMPLED_SWITCH = _builtin(
    "sampled-switch",
    "AutoAttack saw one random draw of the switch in each call instead of its mean prediction. The "
    "attack is too weak.",
)
SCREEN_ABOVE_AUTOATTACK = _builtin(
    "screen-above-autoattack",
    "The screening attack leaves over half a point more images right than AutoAttack. Its figures tell "
    "too little of this model: its gradients may be masked.",
)
SELECTED_ON_TEST = _builtin(
    "selected-on-test",
    "The epoch that was kept, or the weights of the switch, were selected on test images, as in the "
    "paper. The figure is too optimistic.",
)
SHATTERED_GRADIENT = _doubting(
    "shattered-gradient",
    "The gradients are no numbers, or other than the slopes that finite differences of the logits show. "
    "Attacks that follow them are led astray.",
)
SQUARE_BEATS_GRADIENT = _doubting(
    "square-beats-gradient",
    "Square, which uses no gradients, broke images that the gradient attacks before it did not. The "
    "gradients may be masked.",
)
STATEFUL = _doubting(
    "stateful",
    "The model answers the same images otherwise before the attack, after it, or as it came. It goes by what "
    "it was asked before, or by the time.",
)
TRANSFER_BEATS_WHITE_BOX = _doubting(
    "transfer-beats-white-box",
    "Images crafted against another model fool this one more often than the same attack on the model "
    "itself, or than all attacks on it together. The attacks on it are too weak.",
)
UNLEARNT_MASK = _builtin(
    "unlearnt-mask", "The search ended with the mask that it started from, so a random mask was measured."
)
WEAKER_THAN_PGD = _doubting("weaker-than-pgd", "More images are right under AutoAttack than under PGD.")
ZERO_GRADIENT = _doubting(
    "zero-gradient", "For some images the gradient is exactly zero, so attacks that follow it cannot move."
)
BUILTIN_FLAGS = tuple(_REGISTRY[name] for name in sorted(_REGISTRY))

if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "attacks.md"
    block = f"<!-- flags -->\n{as_markdown()}\n<!-- /flags -->"
    page.write_text(re.sub("<!-- flags -->.*<!-- /flags -->", lambda _: block, page.read_text(), flags=re.S))
