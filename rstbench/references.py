"""References: `source:id[option=value,…]` names a model, `source:id:split:count` images. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .errors import BadRequest

SPLITS = ("train", "validation", "test")
MOST_DIGITS = 18  # of a number of images
MOST_PARTS = 100  # of options, between commas


@dataclass(frozen=True)
class Reference:
    """A model, or anything else that is named by its source: `source:id[option=value,…]`."""

    source: str
    id: str
    options: Mapping[str, str] = field(hash=False)
    text: str = field(compare=False)  # as it was written

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Split `source:id[a=1,b=2]`. Raises BadRequest where the text is malformed, or has two meanings.

        Options are the brackets that close a text, unless all of it names a file that exists; brackets within
        them come in pairs. For commas in the path of a file see `parse_options`.
        """
        text = _encodable(text.strip())
        body, options = _split_options(text)
        source, _, id = body.partition(":")
        if not source:
            raise BadRequest(f"a reference must read 'source:id[option=value,…]', got {text!r}")
        complete = text[len(source) + 1 :]
        if id and options and _exists(complete):
            if _exists(id):
                raise BadRequest(f"{text!r} names {complete!r}, or {id!r} with options; rename one")
            id, options = complete, ""
        if text.endswith("]") and text.count("[") != text.count("]") and not _exists(complete):
            raise BadRequest(f"the brackets of a reference come in pairs, got {text!r}")
        return cls(source, id, parse_options(options, text, paths=True), text)


@dataclass(frozen=True)
class DataReference:
    """The images of a data set: `source[:id][:split][:count]`.

    split: '' where none is named, which means the test images to measure on, and the training images to
    learn from; count: the first so many of it, None for all.
    """

    source: str
    id: str = ""
    split: str = ""
    count: int | None = None

    def __str__(self) -> str:
        return ":".join(filter(None, (self.source, self.id, self.split, str(self.count or ""))))

    @classmethod
    def parse(cls, text: str) -> DataReference:
        """Read the parts from the right, for ids may hold colons. Raises BadRequest."""
        source, *parts = _encodable(text.strip()).split(":")
        count = None
        if parts and parts[-1].isascii() and parts[-1].isdigit():
            digits = parts.pop().lstrip("0")
            if not digits:
                raise BadRequest(f"the data {text!r} are empty; ask for at least one image")
            if len(digits) > MOST_DIGITS:
                raise BadRequest(f"no data set has so many images: {text!r}")
            count = int(digits)
        split = parts.pop() if parts and parts[-1] in SPLITS else ""
        if not source:
            raise BadRequest(f"data must read 'name:test:1000', got {text!r}")
        return cls(source, ":".join(parts), split, count)

    def all_of(self, split: str) -> DataReference:
        """Return all images of another split of the same data set; '' names none."""
        return replace(self, split=split, count=None)


def parse_options(text: str, reference: str, *, paths: bool = False) -> dict[str, str]:
    """Read `a=1,b=2` as a dictionary of texts; `reference` is quoted in the error.

    paths: values may be paths with commas in them, where such a path exists. Raises BadRequest.
    """
    options: dict[str, str] = {}
    parts = text.split(",")
    if len(parts) > MOST_PARTS:  # each is looked for with those after it, as a path with commas
        raise BadRequest(f"a reference has up to {MOST_PARTS} options, got {len(parts)}")
    while parts:
        count = _count_parts(parts, reference) if paths else 1
        part, parts = ",".join(parts[:count]).strip(), parts[count:]
        if not part:
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadRequest(f"options must read 'name=value', got {part!r} in {reference!r}")
        if name.strip() in options:
            raise BadRequest(f"option {name.strip()!r} is given twice in {reference!r}")
        options[name.strip()] = value.strip()
    return options


def _encodable(text: str) -> str:
    """Return the text. Raises BadRequest for bytes that are no UTF-8, as a file's name may hold them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{ascii(text)[:200]} is no text in UTF-8; rename the file") from None
    return text


def _split_options(text: str) -> tuple[str, str]:
    """Return what stands before the options, and the options without their brackets.

    Brackets without '=' belong to a path.
    """
    depth, start = 0, len(text)
    while start and (text.endswith("]") and (depth or start == len(text))):
        start -= 1
        depth += {"]": 1, "[": -1}.get(text[start], 0)
    options = text[start + 1 : -1]
    return (text[:start], options) if not depth and "=" in options else (text, "")


def _count_parts(parts: Sequence[str], reference: str) -> int:
    """Return how many parts the first option has: one, unless its value with more of them is a path."""
    value = parts[0].partition("=")[2]
    paths = [",".join([value, *parts[1:count]]).strip() for count in range(1, len(parts) + 1)]
    ends = [count for count in range(1, len(parts)) if "=" in parts[count]] + [len(parts)]
    existing = [count for count in ends if _exists(paths[count - 1])]
    if len(existing) > 1:
        candidates = " or ".join(repr(paths[count - 1]) for count in existing)
        raise BadRequest(f"{reference!r} names {candidates}; rename one")
    return existing[0] if existing else 1


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes, a home that is not there
        return False
