"""Exceptions of this package, and the wording of their messages.

RstbenchError
├── BadRequest      asked for something that cannot be: found before any work      exit status 2
│   └── BadFile     a file that is missing, damaged or of another kind
└── ModelFault      a model or an attack failed while it was measured              exit status 1
    └── OutsideBall an attack returned an image that the threat does not allow
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 20
MOST_NAMED = 3
LONGEST = 2000  # letters of a message; quoted names may have any number


class RstbenchError(Exception):
    """Base of every error that this package raises on purpose.

    Its text is one line for a person, whatever names it quotes. `rstbench.BadRequest` and
    `rstbench.ModelFault` are the two kinds.

    Example:
        >>> import rstbench
        >>> issubclass(rstbench.BadRequest, rstbench.RstbenchError)
        True
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


class BadRequest(RstbenchError):
    """The request itself is wrong: an unknown name, malformed text, an empty data set.

    Raised before any work is done. On the command line it ends with exit status 2.

    Example:
        >>> import rstbench
        >>> rstbench.load_data("digist:test")
        Traceback (most recent call last):
            ...
        rstbench.errors.BadRequest: no data set named 'digist'; did you mean 'digits'? there are: ...
    """


class BadFile(BadRequest):
    """A file is missing, unreadable, truncated, or holds something else than was asked for."""


class ModelFault(RstbenchError):
    """A model or an attack failed while it was measured; its row stays empty and the rest goes on.

    On the command line it ends with exit status 1; `rstbench.evaluate` raises it where no model could be
    asked.

    Example:
        >>> import rstbench
        >>> from torch import nn
        >>> three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> rstbench.evaluate({"three": three}, data="digits:test:10", threat="Linf:0.1", attacks="pgd")
        Traceback (most recent call last):
            ...
        rstbench.errors.ModelFault: three has 3 classes, the data 10
    """


class OutsideBall(ModelFault):
    """An attack returned an image outside the ball, outside the box, or not finite."""


def listed(names: Iterable[str], most: int = MOST_NAMED) -> str:
    """Join the first few of many names, each once, on one line whatever they hold."""
    printable = [name if name.isprintable() else ascii(name) for name in dict.fromkeys(names)]
    return ", ".join(printable[:most]) + (", …" if len(printable) > most else "")


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return an exception's text on one line, cut after `most` letters, or its class where there is none."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def typed_line(error: BaseException) -> str:
    """Return an exception's class and text on one line, the text cut after 300 letters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, or its repr where there is none."""
    return (str(error).strip().splitlines() or [repr(error)])[0][:200]


def unknown(what: str, name: str, known: Iterable[str]) -> BadRequest:
    """Make the error for an unknown name, with the nearest known one."""
    known = sorted(filter(None, known))
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return BadRequest(f"no {what} named {name!r}; {hint}there are: {listed(known, MOST_LISTED) or 'none'}")
