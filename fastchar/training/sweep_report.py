"""What a sweep leaves: a table, a picture, and the settings of the size that it chose."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fastchar.analysis.choice import Choice, choose, spread
from fastchar.analysis.sizes import plot_sizes
from fastchar.files import write_beside
from fastchar.training.config import Config, save_config
from fastchar.training.console import Say
from fastchar.training.folder import RunFolder
from fastchar.version import __version__

# A trial: its embedding_dim, seed, parameters and seconds of training, and of its best epoch the
# number and what `metrics.csv` has of held-out data.
Row = dict[str, float]

_FORMS = {
    "dev_wer": ("WER", "{:.2%}"),
    "dev_per": ("PER", "{:.2%}"),
    "dev_loss": ("loss", "{:.4f}"),
    "dev_bits": ("bits/symbol", "{:.4f}"),
}


class SweepFolder(RunFolder):
    """Paths of a sweep.

    ``optuna.log`` the study: its settings, what is done and what is to do · ``embedding-E-seed-S/``
    a run folder a trial · ``sweep.csv`` a row a trial · ``sweep.png`` · ``chosen.yaml`` settings
    for ``train --config`` · ``data.tsv.gz``, ``dev.tsv.gz`` (or ``.txt.gz``): data that came by a
    pipe.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.study = self.path / "optuna.log"
        self.table = self.path / "sweep.csv"
        self.picture = self.path / "sweep.png"
        self.chosen = self.path / "chosen.yaml"

    def trial(self, size: int, seed: int) -> Path:
        return self.path / f"embedding-{size}-seed-{seed}"


def write_table(rows: Sequence[Row], path: Path) -> None:
    with write_beside(path) as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()})


def write_sweep_report(
    config: Config, rows: Sequence[Row], monitor: str, folder: SweepFolder, say: Say
) -> tuple[Choice, Config]:
    """Choose a size by the errors called ``monitor``; say it, draw it and write its settings.

    Returns the choice and the settings.
    """
    sizes = sorted({int(row["embedding_dim"]) for row in rows})
    of_size = {size: [row for row in rows if row["embedding_dim"] == size] for size in sizes}
    errors = {size: [row[monitor] for row in of_size[size]] for size in sizes}
    choice = choose(errors)
    name, form = _FORMS[monitor]
    write_table(rows, folder.table)
    plot_sizes(errors, choice, name, folder.picture, percent="%" in form)
    chosen = dataclasses.replace(
        config, embedding_dim=choice.size, out=str(folder.path / folder.chosen.stem)
    )
    save_config(chosen, folder.chosen, fastchar=__version__)

    shown = [column for column in _FORMS if column in rows[0]]
    if monitor == "dev_wer":
        shown.remove("dev_loss")
    for line in _lines(of_size, shown, choice):
        say(line)
    if len({fmean(of_one) for of_one in errors.values()}) == 1:
        say(f"every size has the same {name}: longer training may tell them apart")
    seeds = len(errors[choice.best])
    if seeds > 1:
        best = form.format(fmean(errors[choice.best]))
        say(f"mean ± standard deviation over {seeds} seeds, of each one's best epoch")
        say(
            f"chosen: {choice.size}, the smallest size with a mean {name} within one standard "
            f"error of the best's: at most {form.format(choice.limit)}, {choice.best} has {best}"
        )
    else:
        say(
            f"chosen: {choice.size}, the size with the lowest {name}; --seeds 3 would tell how "
            "much of that is chance"
        )
    trained = folder.trial(choice.size, config.seed)
    say(f"all sizes: {folder.picture}; trained already: {trained}")
    say(f"to train it: fastchar train --config {RunFolder(folder.chosen).quoted}")
    return choice, chosen


def _lines(of_size: dict[int, list[Row]], shown: list[str], choice: Choice) -> list[str]:
    """The table for the terminal: a header, and a line a size."""
    names = "".join(f"{_FORMS[column][0]:>19}" for column in shown)
    lines = [f"{'embedding':>9}{'parameters':>13}{names}{'seconds':>10}"]
    for size, rows in of_size.items():
        cells = ""
        for column in shown:
            values, form = [row[column] for row in rows], _FORMS[column][1]
            cell = form.format(fmean(values))
            if len(values) > 1:
                cell += f" ± {form.format(spread(values))}"
            cells += f"{cell:>19}"
        seconds = fmean(row["seconds"] for row in rows)
        marks = "  best" * (size == choice.best) + "  chosen" * (size == choice.size)
        parameters = int(rows[0]["parameters"])
        lines.append(f"{size:>9}{parameters:>13,}{cells}{seconds:>10,.1f}{marks}")
    return lines
