"""One look for every picture, and figures that reach the disk whole."""

from __future__ import annotations

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
BLUE, ORANGE, GREEN, RED = "#2563eb", "#ea580c", "#0d9488", "#dc2626"

_RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
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


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of inches by inches and its axes, row by row."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [axis for row in axes for axis in row]


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG beside ``path``, then rename it."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.partial")
    try:
        with matplotlib.rc_context(_RC):
            figure.savefig(beside, format="png", dpi=150)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def label(symbol: str) -> str:
    """``symbol`` as it can be seen: no blanks, no controls, nothing that the font lacks."""
    if symbol == " ":
        return "␣"
    if all(unicodedata.category(c)[0] not in "CZ" and _in_font(c) for c in symbol):
        # Combining marks need something to stand on; $ would start a formula.
        marked = "◌" + symbol if symbol and unicodedata.combining(symbol[0]) else symbol
        return marked.replace("$", r"\$")
    return " ".join(f"{ord(c):04X}" for c in symbol)


def _in_font(character: str) -> bool:
    global _covered
    if _covered is None:
        path = font_manager.findfont("DejaVu Sans")
        _covered = frozenset(font_manager.get_font(path).get_charmap())
    return ord(character) in _covered


_covered: frozenset[int] | None = None


def labels(symbols: Sequence[str]) -> list[str]:
    return [label(symbol) for symbol in symbols]
