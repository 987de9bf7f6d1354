"""What the size of the embeddings does to the error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.ticker import NullLocator, PercentFormatter

from fastchar.analysis.choice import Choice, standard_error
from fastchar.analysis.style import (
    BLUE,
    GREY,
    GRID,
    ORANGE,
    new_figure,
    save,
    styled,
    text_width,
)


@styled
def plot_sizes(
    errors: Mapping[int, Sequence[float]],
    choice: Choice,
    name: str,
    path: str | Path,
    *,
    percent: bool,
) -> None:
    """The ``errors`` of each size, one a seed, called ``name``; which size was chosen, and why."""
    figure, (axis,) = new_figure(6.4, 4.0)
    sizes = sorted(errors)
    means = [fmean(errors[size]) for size in sizes]
    several = len(errors[choice.best]) > 1
    if several:
        seeds = [(size, error) for size in sizes for error in errors[size]]
        axis.plot(*zip(*seeds, strict=True), "o", color=GREY, ms=4, zorder=3, label="one seed")
        axis.axhline(choice.limit, color=ORANGE, ls="--", label="best + 1 standard error")
    axis.errorbar(
        sizes,
        means,
        [standard_error(errors[size]) for size in sizes] if several else None,
        fmt="o-",
        color=BLUE,
        capsize=3,
        label="mean ± standard error" if several else "one seed",
    )
    chosen = (choice.size, fmean(errors[choice.size]))
    axis.plot(*chosen, "o", ms=13, mfc="none", mec=ORANGE, mew=2, ls="", label="chosen")
    axis.set_xscale("log")
    named = _apart((choice.size, *sizes), width=5.0)
    axis.set_xticks(named, [str(size) for size in named])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(y=0.15)
    axis.set_title(f"{name}, held out")
    axis.set_xlabel("size of the embeddings")
    if percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="y", color=GRID)
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, path)


def _apart(sizes: Sequence[int], width: float) -> list[int]:
    """Those of ``sizes`` whose numbers run into none of an earlier one's, on a logarithmic axis of
    ``width`` inches."""
    scale = width / (math.log(max(sizes) / min(sizes)) or 1)
    found: list[int] = []
    for size in sizes:
        room = text_width(f"{size} ", 10)
        if all(abs(math.log(size / other)) * scale >= room for other in found):
            found.append(size)
    return found
