"""Name the colours of figures and pages."""

from __future__ import annotations

# Variables of the page: the colour in the light, and in the dark. In small letters, and no two of figures
# alike: `page/inline.py` replaces them by text.
PAGE = {
    "paper": ("#fdfdfc", "#14171a"), "raised": ("#ffffff", "#1a1e22"), "ink": ("#1b1f24", "#e4e7ea"),
    "muted": ("#5d666e", "#9aa4ad"), "line": ("#e2e5e7", "#2c3238"), "accent": ("#00639b", "#6cb8ea"),
    "shade": ("#0072b2", "#3d8fc4"), "warm": ("#a94400", "#f0965a"), "wash": ("#f3f5f6", "#1d2226"),
    "mark": ("#fff4d6", "#3a3114"),
    # Series of the figures: Okabe and Ito's without their black and their yellow, which is lost on white.
    "blue": ("#0072b2", "#4aa5dc"), "vermilion": ("#d55e00", "#f08040"), "green": ("#009e73", "#2cc298"),
    "purple": ("#cc79a7", "#dc93bb"), "orange": ("#e69f00", "#f2b632"), "sky": ("#56b4e9", "#9ad8fa"),
}  # fmt: skip
SERIES = ("blue", "vermilion", "green", "purple", "orange", "sky")
# Figures are drawn in the light colours, and have the page's variables where they are part of it.
FIGURES = {name: PAGE[name][0] for name in ("ink", "line", *SERIES)} | {"muted": "#69727a"}
FIGURE_PAPER = "#fefefe"  # transparent on a page
SCALE, ON_DARK, ON_LIGHT = "viridis", "#ffffff", "#000000"  # of the transfer matrix, and its texts
DARK = 0.55  # share of the scale below which text is light
