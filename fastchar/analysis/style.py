"""One look for every picture, and figures that reach the disk whole."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GREY, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, RED = "#2563eb", "#ea580c", "#dc2626"
FONT = "DejaVu Sans"  # comes with matplotlib

_RC: dict[Any, Any] = {
    "font.family": [FONT],
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

# Decorates a function that draws: the caller's own matplotlib settings stay as they are.
styled = matplotlib.rc_context(_RC)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of inches by inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [axis for row in axes for axis in row]


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG beside ``path``, then rename it."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(beside, format="png", dpi=150)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def label(symbol: str) -> str:
    """``symbol`` as it can be seen: no blanks, no controls, nothing that the font lacks."""
    if symbol == " ":
        return "␣"
    if not all(unicodedata.category(c)[0] not in "CZ" and ord(c) in _covered() for c in symbol):
        return " ".join(f"{ord(c):04X}" for c in symbol)
    if unicodedata.combining(symbol[0]):
        return "◌" + symbol  # a mark needs something to stand on
    return symbol.replace("$", r"\$")  # a pair of them would be a formula


def labels(symbols: Sequence[str]) -> list[str]:
    return [label(symbol) for symbol in symbols]


@functools.cache
def _covered() -> frozenset[int]:
    """The code points that the font has."""
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())
