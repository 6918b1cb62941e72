"""Make a figure's SVG a part of a page, with unique ids and the page's colours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from ..palette import FIGURE_PAPER, FIGURES

_SHAPES = {"svg", "defs", "g", "path", "use", "clipPath", "rect", "text", "tspan", "image", "style"}
WIDE = 640  # pixels; wider figures stand alone
_NOT_INLINE = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style type.*?</style>"
    r"|\sxmlns(:\w+)?=\"[^\"]*\"",
    re.DOTALL,
)
_DIGITS = re.compile(r"(\.\d\d)\d+")  # of coordinates, in points
_SIZE = re.compile(r'<svg([^>]*?) width="([\d.]+)pt" height="([\d.]+)pt"')


@dataclass(frozen=True)
class Picture:
    """A figure for the page: its element, and its file beside the page."""

    title: str
    alt: str
    svg: str
    file: str

    @property
    def wide(self) -> bool:
        width = re.search(r'style="width:(\d+)px"', self.svg)
        return width is not None and int(width[1]) > WIDE


def inline(svg: bytes, name: str) -> str:
    """Return the `svg` element; `name` goes before each id and class, since a page holds several figures."""
    text = _NOT_INLINE.sub("", svg.decode())
    text = re.sub(r'(\sid="|href="#|url\(#|\sclass="|\.(?=s\d+\{))', rf"\g<1>{name}-", text)
    text = text.replace(FIGURE_PAPER, "none")
    for variable, colour in FIGURES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r' d="[^"]*"', lambda path: _DIGITS.sub(r"\1", path[0]), text)
    return _SIZE.sub(_sized, text).strip()


def is_plain(svg: str) -> bool:
    """Whether an inlined figure holds shapes and text alone, no script and nothing from elsewhere.

    What lies in a folder need not be what was drawn there.
    """
    if "<!" in svg or "<?" in svg:
        return False
    try:
        root = ElementTree.fromstring(svg.replace("xlink:", ""))
    except ElementTree.ParseError:
        return False
    return all(
        element.tag in _SHAPES
        and not any(_reaches_out(*item) for item in element.attrib.items())
        and not (element.tag == "style" and _reaches_out("", element.text or ""))
        for element in root.iter()
    )


def _reaches_out(name: str, value: str) -> bool:
    is_link = name == "href" and not value.startswith(("#", "data:image/png;base64,"))
    return (
        is_link
        or name.lower().startswith("on")
        or bool(re.search(r"url\((?!#)|javascript:|@import|<", value, re.I))
    )


def _sized(match: re.Match[str]) -> str:
    """Return the opening tag with its width in pixels, 96 to an inch of 72 points."""
    # Hidden from screen readers, to which the caption says what a figure shows.
    return f'<svg{match[1]} aria-hidden="true" style="width:{float(match[2]) * 4 / 3:.0f}px"'
