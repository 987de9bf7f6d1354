"""Where a model looks while it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastchar.analysis.style import GREY, labels, new_figure, save, styled


@dataclass(frozen=True)
class Look:
    """What was read and written, in symbols, and the weights [written, read] between them."""

    title: str
    read: Sequence[str]
    written: Sequence[str]
    weights: Tensor


@styled
def plot_attention(looks: Sequence[Look], path: str | Path, columns: int = 3) -> None:
    """Heat maps, one a look, read from left to right and written from top to bottom."""
    columns = min(columns, len(looks))
    rows = -(-len(looks) // columns)
    longest_read = max(len(look.read) for look in looks)
    longest_written = max(len(look.written) for look in looks)
    figure, axes = new_figure(
        columns * (0.31 * longest_read + 0.9), rows * (0.31 * longest_written + 0.8), rows, columns
    )
    for axis, look in zip(axes, looks, strict=False):
        weights = look.weights.float().cpu().numpy()
        image = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        axis.set_title(look.title)
        axis.set_xticks(range(len(look.read)), labels(look.read))
        axis.set_yticks(range(len(look.written)), labels(look.written))
        axis.tick_params(length=0)
        axis.set_anchor("NW")
        axis.spines[:].set_visible(True)
        axis.spines[:].set_color(GREY)
    for axis in axes[len(looks) :]:
        axis.set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, label="attention")
    bar.outline.set_visible(False)
    save(figure, path)
