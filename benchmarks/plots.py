"""The report's pictures, drawn from result files alone."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from .tables import Result, geometric_mean, ratio

# Work whose data stays in the cache can pass the roof; what is further out is drawn at the edge.
MOST_SHARE = 1.5
MOST_LEVEL = 7  # labels of an axis that have room side by side
OURS, THEIRS, EDGE = "#0b6e99", "#9aa5ad", "#333333"


def draw(results: Sequence[Result], folder: Path, prefix: str) -> list[Path]:
    """Writes `<prefix>-{ratios,roofs,axes}.png` into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in (
        ("ratios", _ratios(results)),
        ("roofs", _roofs(results)),
        ("axes", _axes(results)),
    ):
        paths.append(folder / f"{prefix}-{name}.png")
        figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
        plt.close(figure)
    return paths


def draw_speed(result: Result, path: Path) -> None:
    """Words a second of each trainer, with quartiles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(result["words_per_second"])[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(names) + 1))
    for row, name in enumerate(names):
        spread = result["words_per_second"][name]
        color = OURS if name == result["ours"] else THEIRS
        reach = [[spread["median"] - spread["q1"]], [spread["q3"] - spread["median"]]]
        axes.barh(row, spread["median"], xerr=reach, color=color, ecolor=EDGE, capsize=3)
        axes.text(0.02 * spread["median"], row, f"{spread['median']:.0f}", va="center", color="w")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("words a second, training (whiskers: quartiles)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def draw_threads(result: Result, path: Path) -> None:
    """Speed-up at every point by count of threads: measured, and as predicted from one thread."""
    path.parent.mkdir(parents=True, exist_ok=True)
    titles = list(dict.fromkeys(entry["title"] for entry in result["points"]))
    counts = list(result["wait_seconds"])
    figure, grid = plt.subplots(
        1, len(counts), figsize=(6 * len(counts) + 1, 0.45 * len(titles) + 1), squeeze=False
    )
    for axes, count in zip(grid[0], counts, strict=True):
        for row, title in enumerate(titles):
            entries = [entry for entry in result["points"] if entry["title"] == title]
            for index, entry in enumerate(entries):
                height = row + 0.7 * ((index + 0.5) / len(entries) - 0.5)
                measured, model = entry["speedup"][count]["median"], entry["predicted"][count]
                axes.plot([measured, model], [height, height], color=THEIRS, lw=0.8)
                axes.plot(model, height, "|", color=EDGE, ms=6)
                axes.plot(measured, height, "o", color=OURS, ms=3)
        axes.axvline(int(count), color="#c23b22", lw=1)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"speed-up with {count} threads (dot: measured, tick: predicted)")
        axes.set_yticks(range(len(titles)), titles)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _log_ticks(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.set_minor_formatter(NullFormatter())


def _strip(axes: Axes, row: int, values: Sequence[float], mean: float) -> None:
    """One dot a grid point, spread a little in height so that dots do not hide each other."""
    ranks = [0.09 * (index % 5 - 2) for index in range(len(values))]
    axes.scatter(values, [row + rank for rank in ranks], s=14, color=OURS, alpha=0.5, lw=0)
    axes.plot([mean, mean], [row - 0.34, row + 0.34], color=EDGE, lw=2)


def _rows(axes: Axes, results: Sequence[Result]) -> None:
    axes.set_yticks(range(len(results)), [result["title"] for result in results])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def _ratios(results: Sequence[Result]) -> plt.Figure:
    """Every point's ratio, by group."""
    figure, axes = plt.subplots(figsize=(7, 0.55 * len(results) + 1))
    for row, result in enumerate(results):
        ratios = [ratio(result, entry)["median"] for entry in result["points"]]
        _strip(axes, row, ratios, geometric_mean(ratios))
    axes.axvline(1, color="#c23b22", lw=1)
    axes.set_xscale("log")
    _log_ticks(axes, "x")
    axes.set_xlabel("torch's time / fastchar's (dot: a grid point, bar: geometric mean)")
    _rows(axes, results)
    return figure


def _roofs(results: Sequence[Result]) -> plt.Figure:
    """Every point's share of the roof that bounds it, by group."""
    figure, axes = plt.subplots(figsize=(7, 0.55 * len(results) + 1))
    for row, result in enumerate(results):
        shares = [entry["roofline"]["share"] for entry in result["points"]]
        shown = [min(share, MOST_SHARE) for share in shares]
        _strip(axes, row, shown, min(geometric_mean(shares), MOST_SHARE))
    axes.axvline(1, color="#c23b22", lw=1)
    axes.set_xlim(0, MOST_SHARE + 0.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the machine's torch.mm or copy rate, whichever bounds the point")
    _rows(axes, results)
    return figure


def _axes(results: Sequence[Result]) -> plt.Figure:
    """Geometric mean and range of the ratio along each axis of each group's grid."""
    along = [
        (result, [a for a in result["points"][0]["point"] if len(_values(result, a)) > 1])
        for result in results
    ]
    columns = max(1, max(len(axes) for _, axes in along))
    figure, grid = plt.subplots(
        len(along), columns, figsize=(2.2 * columns + 1, 2.1 * len(along)), squeeze=False
    )
    for row, (result, names) in zip(grid, along, strict=True):
        row[0].set_title(result["title"], loc="left", fontsize=9, fontweight="bold")
        for axes, name in zip(row, names, strict=False):
            _along(axes, result, name)
        for axes in row[len(names) :]:
            axes.set_axis_off()
    figure.tight_layout()
    return figure


def _values(result: Result, axis: str) -> list[int]:
    return sorted({entry["point"][axis] for entry in result["points"]})


def _along(axes: Axes, result: Result, name: str) -> None:
    values = _values(result, name)
    groups = [
        [ratio(result, e)["median"] for e in result["points"] if e["point"][name] == value]
        for value in values
    ]
    places = range(len(values))
    axes.fill_between(
        places, [min(g) for g in groups], [max(g) for g in groups], color=OURS, alpha=0.15, lw=0
    )
    axes.plot(places, [geometric_mean(g) for g in groups], "o-", color=OURS, ms=3, lw=1.2)
    axes.axhline(1, color="#c23b22", lw=0.8)
    axes.set_yscale("log")
    everything = [value for group in groups for value in group]
    axes.set_ylim(min(0.8, 0.9 * min(everything)), max(2.2, 1.1 * max(everything)))
    _log_ticks(axes, "y")
    axes.set_xticks(places, [str(value) for value in values])
    axes.set_xlabel(name, fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7)
    if len(values) > MOST_LEVEL:
        axes.tick_params("x", rotation=90)
    axes.spines[["top", "right"]].set_visible(False)
