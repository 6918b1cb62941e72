"""Define the contract of an attack, and parse its text: `pgd:restarts=5,steps=50`. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints

from ..errors import BadRequest, unknown
from ..parsing import exact_number
from ..plugins import find, singular
from ..references import parse_options
from ..threat import Threat

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from .mixture import Model

UNKNOWN_PASSES = 100


@dataclass(frozen=True)
class Crafted:
    """What an attack returns.

    Args:
        images: Adversarial images of x's shape, inside the ball and the box.
        stages: For each named part of the attack, a bool tensor (n,) of the images it broke on the source.
        flags: Names of the flags that the attack raised.

    Example:
        >>> import rstbench, torch
        >>> rstbench.Crafted(torch.zeros(2, 1, 8, 8), flags=("zero-gradient",)).flags
        ('zero-gradient',)
    """

    images: Tensor
    stages: Mapping[str, Tensor] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


class Attack(Protocol):
    """The contract of an attack: a callable that crafts images against a model.

    Randomness comes from `generator` alone; the global generator is the caller's to protect. The caller
    checks that the images are inside the ball and the box.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, classes), in eval mode. Where it has `members`
            and `weights` it is a random switch; where it has `exact_model` it is a faster copy of that.
        x: Clean images (n, c, h, w) in [0, 1].
        y: Labels (n,), int64.
        threat: What the images may look like.
        generator: A seeded generator on the CPU.

    Returns:
        The images, what broke them, and flags.

    Example:
        >>> import rstbench, torch
        >>> def grey(model, x, y, threat, generator):
        ...     return rstbench.Crafted(threat.project(x, torch.full_like(x, 0.5)))
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> threat = rstbench.Threat.parse("Linf:0.25")
        >>> grey(None, x, torch.zeros(2), threat, torch.Generator()).images.amax().item()
        0.25
    """

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        """Return the crafted images, one for each of x."""


@dataclass(frozen=True)
class AttackSpec:
    """An attack as a user names it, and the attack itself, made once.

    `str` of it is the canonical text `family:option=value,...`, which names the column of a table.

    Args:
        family: The name it is registered under, the same for all options.
        options: Those that differ from the defaults, sorted by name, so that one attack has one text. A
            plug-in that is no dataclass cannot tell its defaults: its options stand as they were given.
        attack: The attack.

    Example:
        >>> import rstbench
        >>> spec = rstbench.AttackSpec.parse("pgd:steps=50,restarts=1")
        >>> spec.family, str(spec)
        ('pgd', 'pgd:steps=50')
        >>> str(spec.early_stopped())
        'pgd:early_stop=true,steps=50'
    """

    family: str
    options: tuple[tuple[str, str], ...]
    attack: Attack = field(compare=False, repr=False)

    @property
    def passes(self) -> int:
        """Return about how many passes, forward and backward, an image takes that survives.

        Plug-ins may tell theirs by a whole number `passes`.
        """
        passes = getattr(self.attack, "passes", None)
        return passes if isinstance(passes, int) and passes > 0 else UNKNOWN_PASSES

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.family}:{options}" if options else self.family

    @classmethod
    def parse(cls, text: str) -> AttackSpec:
        """Read an attack from its text and make it.

        Args:
            text: Such as 'pgd:steps=50,restarts=5' or 'autoattack'.

        Returns:
            The attack with its canonical name.

        Raises:
            BadRequest: For unknown names or options, and values that the attack refuses.
        """
        return cls.of(*make_named("attacks", text))

    @classmethod
    def of(cls, family: str, attack: Attack, given: Mapping[str, str] = {}) -> AttackSpec:
        """Name an attack that is made already.

        Args:
            family: Its registered name.
            attack: The attack.
            given: Its options, where it is no dataclass.

        Returns:
            The attack with its canonical name.
        """
        return cls(family, changed_options(attack, given), attack)

    def early_stopped(self) -> AttackSpec | None:
        """Return the same attack stopping at its first success; None where it cannot, or does already."""
        if not dataclasses.is_dataclass(self.attack) or getattr(self.attack, "early_stop", True):
            return None
        stopped: Any = dataclasses.replace(self.attack, early_stop=True)
        return AttackSpec.of(self.family, stopped)


def make_named(group: str, text: str) -> tuple[str, Any, Mapping[str, str]]:
    """Make what a text such as `pgd:steps=50` names in a group of names: 'attacks', 'certificates'.

    Returns its registered name, itself, and its options as they were given. Raises BadRequest for unknown
    names or options, and values that it refuses.
    """
    name, _, options = text.strip().partition(":")
    factory = find(group, name)
    given = parse_options(options, text)
    values = read_options(factory, name, given) if dataclasses.is_dataclass(factory) else given
    try:
        return name, factory(**values), given
    except Exception as error:  # of a plug-in, whatever it raises
        raise BadRequest(f"the {singular(group)} {text!r} cannot be made: {error}") from error


def changed_options(made: Any, given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the options of a dataclass that differ from the defaults, sorted by name; of anything else those
    that were given."""
    if dataclasses.is_dataclass(made):
        values = {f.name: (getattr(made, f.name), f.default) for f in dataclasses.fields(made)}
        given = {key: _as_text(value) for key, (value, default) in values.items() if value != default}
    return tuple(sorted(given.items()))


def read_options(factory: Any, name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Read option texts as values of the types of a dataclass's fields. Raises BadRequest."""
    types = get_type_hints(factory)
    known = [f.name for f in dataclasses.fields(factory) if f.init]
    values: dict[str, Any] = {}
    for option, text in given.items():
        if option not in known:
            raise unknown(f"option of {name!r}", option, known)
        values[option] = _read(text, types[option], f"{name}:{option}")
    return values


_WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Fraction: "a number or a fraction such as 1/4",
}


def _read(text: str, kind: Any, where: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is Fraction:
            return exact_number(text)
        return kind(text) if kind in (int, float, str) else tuple(text.split("+"))
    except (ValueError, KeyError):
        raise BadRequest(f"{where} wants {_WANTED.get(kind, 'text')}, got {text!r}") from None


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(value) if isinstance(value, tuple) else str(value)
