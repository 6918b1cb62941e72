"""A figure's SVG as a part of a page: its names its own, its neutral colours the page's."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Colours of the figures, and the page's names for them: others in the dark.
_COLOURS = {
    "#1b1f24": "var(--ink)",
    "#69727a": "var(--muted)",
    "#e2e5e7": "var(--line)",
    "#fefefe": "none",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--vermilion)",
    "#009e73": "var(--green)",
}
WIDE = 640  # pixels; wider figures stand alone
_DROPPED = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style type.*?</style>"
    r"|\sxmlns(:\w+)?=\"[^\"]*\"",
    re.DOTALL,
)
_LONG = re.compile(r"(\.\d\d)\d+")  # of coordinates, in points
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
        found = re.search(r'style="width:(\d+)px"', self.svg)
        return found is not None and int(found[1]) > WIDE


def inline(svg: bytes, name: str) -> str:
    """The element alone. `name` goes before each id and class, for a page holds several figures."""
    text = _DROPPED.sub("", svg.decode())
    text = re.sub(r'(\sid="|href="#|url\(#|\sclass="|\.(?=s\d+\{))', rf"\g<1>{name}-", text)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    text = re.sub(r' d="[^"]*"', lambda path: _LONG.sub(r"\1", path[0]), text)
    return _SIZE.sub(_sized, text).strip()


def _sized(found: re.Match[str]) -> str:
    """72 points are an inch, and so are 96 pixels. The caption says what a figure shows."""
    return f'<svg{found[1]} aria-hidden="true" style="width:{float(found[2]) * 4 / 3:.0f}px"'
