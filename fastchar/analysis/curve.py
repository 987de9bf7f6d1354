"""How a model learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fastchar.analysis.style import BLUE, GREY, GRID, ORANGE, RED, new_figure, save, styled


@styled
def plot_curve(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """The rows of a ``metrics.csv`` as curves: losses, and error rates or bits a character."""
    figure, (left, right) = new_figure(9.6, 3.8, 1, 2)
    epochs = [row["epoch"] for row in rows]

    def line(axis: Axes, name: str, text: str, color: str, style: str = "-") -> None:
        values = [row[name] for row in rows]
        axis.plot(epochs, values, style, color=color, marker="o", markersize=3.5, label=text)

    line(left, "train_loss", "training", GREY, "--")
    line(left, "dev_loss", "held out", BLUE)
    left.set_title("loss, nats per symbol")
    if "dev_wer" in rows[0]:
        line(right, "dev_wer", "WER", RED)
        line(right, "dev_per", "PER", ORANGE)
        right.set_title("error rates, held out")
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _mark_best(right, epochs, [row["dev_wer"] for row in rows], "{:.1%}", RED)
        _mark_best(right, epochs, [row["dev_per"] for row in rows], "{:.1%}", ORANGE)
    else:
        line(right, "dev_bits", "held out", BLUE)
        right.set_title("bits per character")
        _mark_best(right, epochs, [row["dev_bits"] for row in rows], "{:.3f}", BLUE)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
        axis.margins(x=0.06)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axis.grid(axis="y", color=GRID)
        axis.set_axisbelow(True)
        # Beside the title, where no curve goes.
        axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0)
    save(figure, path)


def _mark_best(
    axis: Axes, epochs: Sequence[float], values: Sequence[float], form: str, color: str
) -> None:
    best = min(range(len(values)), key=values.__getitem__)
    axis.annotate(
        form.format(values[best]),
        (epochs[best], values[best]),
        textcoords="offset points",
        xytext=(0, 7),
        ha="center",
        color=color,
    )
