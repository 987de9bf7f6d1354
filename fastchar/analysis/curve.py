"""How a model learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fastchar.analysis.style import BLUE, GREY, GRID, ORANGE, RED, new_figure, save, styled


@styled
def plot_curve(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """The rows of a ``metrics.csv`` as curves: losses, and error rates or bits a symbol."""
    figure, (left, right) = new_figure(9.6, 3.8, 1, 2)
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) <= 40 else ""

    def line(axis: Axes, name: str, text: str, color: str, style: str = "-") -> None:
        values = [row[name] for row in rows]
        axis.plot(epochs, values, style, color=color, marker=marker, markersize=3.5, label=text)

    line(left, "train_loss", "training", GREY, "--")
    line(left, "dev_loss", "held out", BLUE)
    left.set_title("loss, nats per symbol")
    if "dev_wer" in rows[0]:
        line(right, "dev_wer", "WER", RED)
        line(right, "dev_per", "PER", ORANGE)
        right.set_title("error rates, held out")
        right.yaxis.set_major_formatter(PercentFormatter(1))
        words, symbols = ([row[name] for row in rows] for name in ("dev_wer", "dev_per"))
        # Where the curves end close together, the upper number goes higher.
        close = min(words) - min(symbols) <= 0.1 * max(*words, *symbols)
        _mark_best(right, epochs, words, "{:.1%}", RED, 20 if close else 7)
        _mark_best(right, epochs, symbols, "{:.1%}", ORANGE)
    else:
        line(right, "dev_bits", "held out", BLUE)
        right.set_title("bits per symbol")
        _mark_best(right, epochs, [row["dev_bits"] for row in rows], "{:.3f}", BLUE)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.set_ylim(0, 1.1 * (axis.dataLim.y1 or 1))
        axis.margins(x=0.06)
        if len(rows) == 1:
            axis.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        axis.grid(axis="y", color=GRID)
        axis.set_axisbelow(True)
        # Beside the title, where no curve goes.
        axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0)
    save(figure, path)


def _mark_best(
    axis: Axes,
    epochs: Sequence[float],
    values: Sequence[float],
    form: str,
    color: str,
    above: int = 7,
) -> None:
    """The lowest of ``values``, written ``above`` points over its place."""
    best = min(range(len(values)), key=values.__getitem__)
    axis.annotate(
        form.format(values[best]),
        (epochs[best], values[best]),
        textcoords="offset points",
        xytext=(0, above),
        ha="center",
        color=color,
    )
