"""One look for every picture, and figures that reach the disk whole."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.cells import cell_len

from fastchar.analysis.symbols import code_points, visible
from fastchar.files import beside

INK, GREY, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, RED = "#2563eb", "#ea580c", "#dc2626"
# The first comes with matplotlib; the others, of whatever system has them, for what it lacks.
_WANTED = [
    "DejaVu Sans",
    *("Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari"),
    *("Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Ethiopic"),
    *("WenQuanYi Zen Hei", "Droid Sans Fallback", "FreeSans", "Unifont"),  # Linux
    *("Arial Unicode MS", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo"),  # macOS
    *("Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI"),  # Windows
]
_INSTALLED = set(font_manager.get_font_names())
FONTS = [name for name in _WANTED if name in _INSTALLED]

LONGEST = 16  # characters of a label

_RC: dict[Any, Any] = {
    "font.family": FONTS,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}

# Decorates a function that draws. The caller's own matplotlib settings, such as a dark background
# or TeX, stay as they are and have no part in it. A PNG needs no backend: the caller's stays too.
styled = style.context(["default", _RC])


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of inches by inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [axis for row in axes for axis in row]


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG. Raises :class:`InputError` for a ``path`` where no file can be made."""
    with beside(path) as place:
        figure.savefig(place, format="png", dpi=150)


def label(symbol: str) -> str:
    """``symbol`` as it can be seen: no blanks, no controls, nothing that the fonts lack, and of a
    long one, for which there is no room, the beginning."""
    text = visible(symbol)
    if not _covered().issuperset(map(ord, text)):
        text = code_points(symbol)
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return text.replace("$", r"\$")  # a pair of them would be a formula


def labels(symbols: Sequence[str]) -> list[str]:
    return [label(symbol) for symbol in symbols]


def title(text: str, most: int) -> str:
    """``text`` without what the fonts lack, shortened to ``most`` characters."""
    text = text if len(text) <= most else text[: max(most - 1, 1)] + "…"
    seen = "".join(c if ord(c) in _covered() else "\ufffd" for c in text)
    return seen.replace("$", r"\$")


@functools.cache
def _covered() -> frozenset[int]:
    """The code points that the fonts have."""
    paths = [font_manager.findfont(name, fallback_to_default=False) for name in FONTS]
    return frozenset[int]().union(*(font_manager.get_font(p).get_charmap() for p in paths))


def text_width(text: str, size: float) -> float:
    """About how many inches ``text`` takes in letters of ``size`` points."""
    cells = cell_len(text.replace("\\", ""))
    return 0.7 * size * max(cells, 1) / 72
