"""The run folder: everything of one training run, each file written beside and then renamed."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fastchar.training.files import InputError, write_beside

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from fastchar.models import CharLM, Seq2Seq


class RunFolder:
    """Paths of a run, and what writes to them.

    ``model/`` best model so far · ``last.ckpt`` to resume from · ``best.ckpt`` the checkpoint of
    the best epoch · ``metrics.csv`` a row an epoch · ``config.yaml`` all settings · ``log`` what
    was printed · ``curve.png``, ``attention.png``, ``embedding.png``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model = self.path / "model"
        self.last = self.path / "last.ckpt"
        self.best = self.path / "best.ckpt"
        self.metrics = self.path / "metrics.csv"
        self.config = self.path / "config.yaml"
        self.log = self.path / "log"

    def create(self) -> None:
        """Make the folder. Raises :class:`InputError` if it holds a run already."""
        if self.config.exists():
            raise InputError(
                f"{self.path}: expected no run in this folder yet, got one; "
                f"choose another with --out, or go on with --resume {self.path}"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: expected a folder, got: {error.strerror}") from None

    def append_log(self, line: str) -> None:
        with open(self.log, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def append_metrics(self, record: dict[str, float]) -> None:
        """Add a row; the header comes with the first one."""
        new = not self.metrics.exists()
        with open(self.metrics, "a", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, record, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in record.items()}
            )

    def read_metrics(self) -> list[dict[str, float]]:
        return read_metrics(self.metrics) if self.metrics.exists() else []

    def forget_after(self, epoch: int) -> None:
        """Drop the rows of epochs after ``epoch``, which a resumed run will write again."""
        if not self.metrics.exists():
            return
        with open(self.metrics, encoding="utf-8") as stream:
            header, *rows = stream.read().splitlines()
        with write_beside(self.metrics) as stream:
            kept = [row for row in rows if int(row.split(",", 1)[0]) <= epoch]
            stream.writelines(line + "\n" for line in [header, *kept])

    def save(self, trainer: Trainer, best: Seq2Seq | CharLM | None = None) -> None:
        """Write ``last.ckpt``; if there is a ``best`` model so far, keep it and its checkpoint.

        ``last.ckpt`` comes last: once it says that this was the best epoch, the rest is there.
        """
        new = self.last.with_name(".last.ckpt.partial")
        trainer.save_checkpoint(new)
        if best is not None:
            beside = self.best.with_name(".best.ckpt.partial")
            shutil.copyfile(new, beside)
            os.replace(beside, self.best)
            best.save_pretrained(self.model)
        os.replace(new, self.last)


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``."""
    with open(path, encoding="utf-8", newline="") as stream:
        return [
            {name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)
        ]


def load_model(path: str | Path) -> Seq2Seq | CharLM:
    """The model in ``path``, a model folder or a run folder. Raises :class:`InputError`."""
    from fastchar.models import load

    run = RunFolder(path)
    try:
        return load(run.model if run.config.exists() else run.path)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from None
