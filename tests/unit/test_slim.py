"""A figure's SVG made shorter: what is drawn stays, down to a hundredth of a point."""

from __future__ import annotations

import xml.etree.ElementTree as tree

from rstbench.reports.figures.slim import slim

SVG = b"""<?xml version="1.0" encoding="utf-8"?>
<svg width="72pt" height="36pt" viewBox="0 0 72 36" xmlns="http://www.w3.org/2000/svg"
     xmlns:xlink="http://www.w3.org/1999/xlink">
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1"><g id="line_1"/>
  <defs><path id="m591b61692e" d="M 0 0
L 0 3.456789 " style="stroke: #69727a; stroke-width: 0.8"/></defs>
  <g clip-path="url(#p32b5765ea1)"><use xlink:href="#m591b61692e" x="48.187836" style="stroke: #69727a; stroke-width: 0.8"/></g>
  <g id="text_1"><text style="font-size: 8.5px; font-family: 'DejaVu Sans'; fill: #1b1f24" transform="rotate(-0 1 2)">a &gt; b</text></g>
  <image transform="matrix(1.234567 0 0 1 0 0)"/>
 </g>
 <clipPath id="p32b5765ea1"/>
</svg>"""  # noqa: E501


def test_what_is_drawn_stays_and_the_rest_goes():
    text = slim(SVG).decode()
    tree.fromstring(text)
    assert '<path id="i1" d="M0 0L0 3.45" class="s0"/>' in text
    assert '<g clip-path="url(#i0)"><use xlink:href="#i1" x="48.18" class="s0"/></g>' in text
    assert '<text class="s1">a &gt; b</text><image transform="matrix(1.234567 0 0 1 0 0)"/>' in text
    assert text.endswith('<clipPath id="i0"/></svg>')
    assert "<style>.s0{stroke:#69727a;stroke-width:0.8}.s1{fill:#1b1f24}</style></defs>" in text
    assert "figure_1" not in text
