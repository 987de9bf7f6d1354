"""The run folder: everything of one training run, each file written beside and then renamed."""

from __future__ import annotations

import csv
import io
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastchar.files import InputError, beside, write_beside, writing

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from fastchar.models import CharLM, Seq2Seq


class RunFolder:
    """Paths of a run, and what writes to them.

    ``model/`` best model so far · ``last.ckpt`` to resume from · ``best.ckpt`` the checkpoint of
    the best epoch · ``metrics.csv`` a row an epoch · ``config.yaml`` all settings · ``log`` what
    was printed · ``curve.png``, ``attention.png``, ``embedding.png`` · ``tensorboard/``, if asked
    for · ``data.tsv.gz``, ``dev.tsv.gz`` (or ``.txt.gz``): data that came by a pipe.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.quoted = shlex.quote(str(path))  # as a shell wants it
        self.model = self.path / "model"
        self.last = self.path / "last.ckpt"
        self.best = self.path / "best.ckpt"
        self.metrics = self.path / "metrics.csv"
        self.config = self.path / "config.yaml"
        self.log = self.path / "log"
        self.curve = self.path / "curve.png"
        self.attention = self.path / "attention.png"
        self.embedding = self.path / "embedding.png"
        self.tensorboard = self.path / "tensorboard"

    def kept(self, name: str, kind: str) -> Path:
        """Where ``name``, ``"data"`` or ``"dev"``, is kept if it comes by a pipe; ``kind``:
        ``"tsv"`` or ``"txt"``."""
        return self.path / f"{name}.{kind}.gz"

    def check_free(self) -> None:
        """Raises :class:`InputError` if a run in this folder would touch what is there."""
        if self.config.exists():
            raise InputError(
                f"{self.path}: expected no run in this folder yet, got one; "
                f"choose another with --out, or go on with --resume {self.quoted}"
            )
        files = [self.model, self.last, self.best, self.metrics, self.log, self.tensorboard]
        files += [self.curve, self.attention, self.embedding]
        files += [self.kept(name, kind) for name in ("data", "dev") for kind in ("tsv", "txt")]
        for path in files:
            if path.exists():
                raise InputError(
                    f"{self.path}: expected a folder without {path.name}, which a run writes; "
                    "choose another with --out"
                )

    def create(self) -> None:
        """Make the folder. Raises :class:`InputError`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: expected a folder, got: {error.strerror}") from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the folder is this training's own. Raises :class:`InputError` if another one that
        still runs has it."""
        import fcntl  # which only some systems have, and models can be loaded without

        folder = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{self.path}: expected no training in this folder, got one that is running"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(folder)

    def append_log(self, line: str) -> None:
        # A path need not be UTF-8, and comes out as it is.
        with (
            writing(self.log),
            open(self.log, "a", encoding="utf-8", errors="surrogateescape") as stream,
        ):
            stream.write(line + "\n")

    def append_metrics(self, record: dict[str, float]) -> None:
        """Add a row; the header comes with the first one."""
        before = self.metrics.read_text("utf-8") if self.metrics.exists() else ""
        added = io.StringIO()
        writer = csv.DictWriter(added, record, lineterminator="\n")
        if not before:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in record.items()})
        with write_beside(self.metrics) as stream:
            stream.write(before + added.getvalue())

    def read_metrics(self) -> list[dict[str, float]]:
        return read_metrics(self.metrics) if self.metrics.exists() else []

    def forget_after(self, epoch: int) -> None:
        """Drop the rows of epochs after ``epoch``, which a resumed run will write again.

        Raises :class:`InputError` if a row of those up to ``epoch`` is missing.
        """
        if epoch == 0:
            self.metrics.unlink(missing_ok=True)
            return
        lines = self.metrics.read_text("utf-8").splitlines() if self.metrics.exists() else []
        kept = lines[: epoch + 1]  # and the header
        if [line.split(",", 1)[0] for line in kept[1:]] != [str(n + 1) for n in range(epoch)]:
            raise InputError(f"{self.metrics}: expected a row for each of {epoch} epochs")
        with write_beside(self.metrics) as stream:
            stream.writelines(line + "\n" for line in kept)

    def save(self, trainer: Trainer, best: Seq2Seq | CharLM | None = None) -> None:
        """Write ``last.ckpt``; if there is a ``best`` model so far, keep it and its checkpoint.

        ``last.ckpt`` comes last: once it says that this was the best epoch, the rest is there.
        """
        with beside(self.last) as new:
            trainer.save_checkpoint(new)
            if best is not None:
                with beside(self.best) as copy:
                    shutil.copyfile(new, copy)
                for left in self.model.glob(".*.tmp"):  # by a save that was killed
                    left.unlink()
                best.save_pretrained(self.model)


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``. Raises :class:`InputError`."""
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            return [{name: float(value) for name, value in row.items()} for row in reader]
        except (TypeError, ValueError):  # of cells that are missing, or too many, and of text
            raise InputError(
                f"{path}, line {reader.line_num}: expected a number in each column"
            ) from None


def model_folder(path: str | Path) -> Path:
    """Where the model is in ``path``, a model folder or a run folder."""
    run = RunFolder(path)
    return run.model if run.config.exists() else run.path


def load_model(path: str | Path) -> Seq2Seq | CharLM:
    """The model in ``path``, a model folder or a run folder, in float32 whatever it was saved in.

    Raises :class:`InputError`.
    """
    from fastchar.models import load

    try:
        return load(model_folder(path)).float()
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from None
