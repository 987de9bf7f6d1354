"""Where a model looks while it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from fastchar.analysis.style import GREY, labels, save, styled, text_width, title

# Inches: a cell of a map, its title, the room between two maps and at the edges, the colour bar.
CELL, TITLE, GAP, BAR = 0.31, 0.34, 0.25, 0.9
LARGEST = 30.0  # inches of a side of the picture, beyond which cells and letters shrink


@dataclass(frozen=True)
class Look:
    """What was read and written, in symbols, and the weights [written, read] between them."""

    title: str
    read: Sequence[str]
    written: Sequence[str]
    weights: Tensor


@styled
def plot_attention(looks: Sequence[Look], path: str | Path, columns: int = 3) -> None:
    """Heat maps, one a look, read from left to right and written from top to bottom.

    Every cell has the same size, and the maps of a row begin at the same height.
    """
    columns = min(columns, len(looks))
    by_column = [looks[i::columns] for i in range(columns)]
    by_row = [looks[i : i + columns] for i in range(0, len(looks), columns)]
    most_read = sum(max(len(look.read) for look in some) for some in by_column)
    most_written = sum(max(len(look.written) for look in some) for some in by_row)
    scale = min(1.0, LARGEST / (CELL * max(most_read, most_written)))
    cell, size = CELL * scale, max(2.0, 10 * scale)
    beside = [_longest([s for look in some for s in look.written], size) for some in by_column]
    below = [_longest([s for look in some for s in look.read], size) for some in by_row]
    widths = [
        room + max(cell * max(len(look.read) for look in some), 1.2) + GAP
        for some, room in zip(by_column, beside, strict=True)
    ]
    heights = [
        TITLE + cell * max(len(look.written) for look in some) + room + GAP
        for some, room in zip(by_row, below, strict=True)
    ]
    width, height = sum(widths) + BAR, max(sum(heights), 1.5)
    figure = Figure(figsize=(width, height))
    for n, look in enumerate(looks):
        row, column = divmod(n, columns)
        w, h = cell * len(look.read), cell * len(look.written)
        x = sum(widths[:column]) + beside[column]
        y = height - sum(heights[:row]) - TITLE - h
        axis = figure.add_axes((x / width, y / height, w / width, h / height))
        image = _draw(axis, look, cell, size)
        axis.set_title(title(look.title, int((widths[column] - beside[column]) / 0.12)), pad=4)
    tall = min(height - 2 * GAP, 4.0)
    place = ((width - BAR + 0.1) / width, 1 - (TITLE + tall) / height, 0.15 / width, tall / height)
    bar = figure.colorbar(image, cax=figure.add_axes(place), label="attention")
    bar.outline.set_visible(False)
    save(figure, path)


def _draw(axis: Axes, look: Look, cell: float, size: float) -> AxesImage:
    weights = look.weights.float().cpu().numpy()
    image = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    readable = size >= 4
    for on, symbols in ((axis.xaxis, look.read), (axis.yaxis, look.written)):
        on.set_ticks(range(len(symbols)) if readable else [])
        on.set_ticklabels(labels(symbols) if readable else [], size=size)
    for text in axis.get_xticklabels():
        if text_width(text.get_text(), size) > cell:  # it would run into its neighbours
            text.set_rotation(90)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(True)
    axis.spines[:].set_color(GREY)
    return image


def _longest(symbols: Sequence[str], size: float) -> float:
    """Inches for the longest of these labels, however it lies."""
    return max(text_width(label, size) for label in labels(symbols)) + 0.12
