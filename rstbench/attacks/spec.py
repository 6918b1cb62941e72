"""The contract of an attack, and its text form: `pgd:restarts=5,steps=50`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints

from ..errors import BadRequest, unknown
from ..plugins import find, parse_options
from ..threat import Threat

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Crafted:
    """What an attack returns.

    Args:
        images: Adversarial images of x's shape, inside the ball and the box.
        stages: For each named part of the attack, a bool tensor (n,) of the images it broke on the source.
        flags: Names of the alarms that the attack raised.

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
            and `weights` it is a random switch.
        x: Clean images (n, c, h, w) in [0, 1].
        y: Labels (n,), int64.
        threat: What the images may look like.
        generator: A seeded generator on the CPU.

    Returns:
        The images, what broke them, and alarms.

    Example:
        >>> import rstbench, torch
        >>> def grey(model, x, y, threat, generator):
        ...     return rstbench.Crafted(threat.project(x, torch.full_like(x, 0.5)))
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> threat = rstbench.Threat.parse("Linf:0.25")
        >>> grey(None, x, torch.zeros(2), threat, torch.Generator()).images.amax().item()
        0.25
    """

    def __call__(
        self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, generator: Generator
    ) -> Crafted: ...


def parse_attack(text: str) -> tuple[str, Attack]:
    """`pgd:steps=50` as (canonical text, attack). Raises BadRequest for unknown names or options."""
    name, _, options = text.strip().partition(":")
    factory = find("attacks", name)
    given = parse_options(options, text)
    values = read_options(factory, name, given) if dataclasses.is_dataclass(factory) else given
    try:
        attack: Attack = factory(**values)
    except Exception as error:  # of an attack of others, whatever it raises
        raise BadRequest(f"the attack {text!r} cannot be made: {error}") from error
    return canonical_text(name, attack, given), attack


def canonical_text(name: str, attack: Attack, given: Mapping[str, str] = {}) -> str:
    """The name plus the options that differ from the defaults, sorted: one text for one attack.

    A plug-in that is no dataclass cannot tell its defaults: its options stand as they were given.
    """
    if dataclasses.is_dataclass(attack):
        given = {
            f.name: _plain(getattr(attack, f.name))
            for f in dataclasses.fields(attack)
            if getattr(attack, f.name) != f.default
        }
    options = ",".join(f"{key}={value}" for key, value in sorted(given.items()))
    return f"{name}:{options}" if options else name


def read_options(factory: Any, name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Option texts as values of the types of a dataclass's fields. Raises BadRequest."""
    types = get_type_hints(factory)
    known = [f.name for f in dataclasses.fields(factory) if f.init]
    values: dict[str, Any] = {}
    for option, text in given.items():
        if option not in known:
            raise unknown(f"option of {name!r}", option, known)
        values[option] = _read(text, types[option], f"{name}:{option}")
    return values


def _read(text: str, kind: Any, where: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, Fraction, str):
            return kind(text)
        return tuple(text.split("+"))
    except (ValueError, KeyError, ZeroDivisionError):
        raise BadRequest(f"{where} wants {_WANTED.get(kind, 'text')}, got {text!r}") from None


_WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Fraction: "a number or a fraction such as 1/4",
}


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(value)
    return str(value)
