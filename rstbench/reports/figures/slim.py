"""An SVG of matplotlib without what no reader needs: repeated styles, unused names, groups and digits."""

from __future__ import annotations

import re
from collections.abc import Mapping

FONT = ("font-size: 8.5px", "font-family: 'DejaVu Sans'")  # of most texts, so of the whole figure
_TAG = re.compile(r"(<[^>]*>)")
_ID = re.compile(r'\sid="([^"]*)"')
_REFERENCE = re.compile(r'((?:href="|url\()#)([^")]*)')
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_NUMBERS = re.compile(r'\s(?:d|x|y|x1|x2|y1|y2|transform)="(?!matrix)[^"]*"')
_LEVEL = re.compile(r'\stransform="rotate\(-?0[^"]*"')
_STYLE = re.compile(r'\sstyle="([^"]*)"')
_PATH = re.compile(r'\sd="([^"]*)"')
_COMMAND = re.compile(r"\s*([MLCQz]|$)\s*")


def slim(svg: bytes) -> bytes:
    """Write a figure shorter: it looks the same to a hundredth of a point."""
    text = svg.decode()
    found = dict.fromkeys(name for _, name in _REFERENCE.findall(text))
    ids = {name: f"i{index}" for index, name in enumerate(found)}
    styles = dict[str, str]()  # class names by the rules that they stand for
    parts, kept = list[str](), list[bool]()
    for part in _TAG.split(text):
        if not part.startswith("<"):
            parts.append(part if part.strip() else "")
            continue
        tag = _slim_tag(part, ids, styles)
        if part.startswith("<g") and not part.endswith("/>"):
            kept.append(tag != "<g>")
        if tag not in ("<g>", "<g/>") and (part != "</g>" or kept.pop()):
            parts.append(tag)
    rules = "".join(f".{name}{{{rule}}}" for rule, name in styles.items())
    return "".join(parts).replace("</defs>", f"<style>{rules}</style></defs>", 1).encode()


def _slim_tag(tag: str, ids: Mapping[str, str], styles: dict[str, str]) -> str:
    tag = _ID.sub(lambda name: f' id="{ids[name[1]]}"' if name[1] in ids else "", tag)
    tag = _REFERENCE.sub(lambda name: name[1] + ids[name[2]], tag)
    tag = _LEVEL.sub("", tag)
    tag = _NUMBERS.sub(lambda numbers: _DECIMALS.sub(r"\1", numbers[0]), tag)
    tag = _PATH.sub(lambda path: ' d="' + _COMMAND.sub(r"\1", path[1]) + '"', tag)
    tag = _STYLE.sub(lambda style: _class(style[1], styles), tag)
    return tag.replace("<svg ", '<svg font-size="8.5px" font-family="DejaVu Sans" ', 1)


def _class(style: str, styles: dict[str, str]) -> str:
    """Return the class that stands for a style, as an attribute."""
    rule = ";".join(rule.replace(": ", ":") for rule in style.split("; ") if rule not in FONT)
    return f' class="{styles.setdefault(rule, f"s{len(styles)}")}"' if rule else ""
