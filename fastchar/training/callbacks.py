"""What goes on around the training loop: the run folder, the progress bar, Ctrl-C."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.progress import TaskID

from fastchar.files import InputError
from fastchar.training.console import Say, clock, make_bar
from fastchar.training.folder import RunFolder


class Interrupted(Exception):
    """The user asked to stop; everything that a resume needs is on disk."""


class StopRequest:
    """Whether Ctrl-C was pressed (or the process told to end); false until then."""

    def __init__(self) -> None:
        self.made = False

    def __bool__(self) -> bool:
        return self.made


@contextmanager
def signals_caught() -> Iterator[StopRequest]:
    """Inside, the first SIGINT or SIGTERM only makes the request true; the second one acts.

    Outside the main thread, which alone gets signals, the request stays false; so it does for a
    signal that was ignored before, as in a script's background commands, and under nohup.
    """
    request = StopRequest()

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.made = True
        signal.signal(number, before[signal.Signals(number)])
        # Past Python's buffers, which the signal may have come in the middle of.
        os.write(2, b"\nstopping after this batch (once more: at once, and the batch is lost)\n")

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class KeepRun(Checkpoint):
    """Writes the run folder after each epoch, and in mid-epoch when a stop is requested; ends the
    run after ``patience`` epochs without a better one, unless that is 0.

    A ``Checkpoint``, because Lightning runs those last, when everyone else's state is final.
    """

    def __init__(
        self, folder: RunFolder, request: StopRequest, say: Say, patience: int = 0
    ) -> None:
        self.folder = folder
        self.request = request
        self.say = say
        self.patience = patience
        # Lower is better; the loss decides between equal error rates.
        self.best = [float("inf"), float("inf")]
        self.since_best = 0  # epochs
        self.ended = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "since_best": self.since_best, "ended": self.ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.since_best = state_dict["best"], state_dict["since_best"]
        self.ended = state_dict["ended"]

    def on_train_batch_end(
        self, trainer: Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The epoch's last batch is followed by its validation: that is when to stop then.
        if self.request and batch_idx + 1 < trainer.num_training_batches:
            self.folder.save(trainer)
            raise Interrupted

    def on_train_epoch_end(self, trainer: Trainer, task: Any) -> None:
        record = task.record
        if not math.isfinite(record["train_loss"] + record["dev_loss"]):
            raise InputError(
                f"epoch {record['epoch']}: expected a loss that is a number, got "
                f"{record['train_loss']} in training and {record['dev_loss']} on held-out data; "
                "try a lower --learning-rate"
            )
        score = [record[task.monitor], record["dev_loss"]]
        better = score < self.best
        self.best = min(self.best, score)
        self.since_best = 0 if better else self.since_best + 1
        # Not by Lightning's EarlyStopping, which looks at one number: error rates are equal often.
        if self.patience and self.since_best >= self.patience:
            trainer.should_stop = True
        self.ended = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        self.folder.append_metrics(record)
        self.say(describe(record, trainer.max_epochs, better))
        self.folder.save(trainer, task.model if better else None)
        if self.request and not self.ended:
            raise Interrupted


def describe(record: dict[str, float], epochs: int | None, better: bool) -> str:
    """An epoch as one line."""
    width = len(str(epochs))
    parts = [
        f"epoch {record['epoch']:{width}d}/{epochs}",
        f"loss {record['train_loss']:.4f}",
        f"dev {record['dev_loss']:.4f}",
    ]
    if "dev_wer" in record:
        parts += [f"WER {record['dev_wer']:6.2%}", f"PER {record['dev_per']:6.2%}"]
        parts += [f"{record['words_per_s']:,.0f} words/s"]
    else:
        parts += [f"{record['dev_bits']:.3f} bits/symbol"]
    parts += [f"{record['chars_per_s']:,.0f} chars/s", clock(record["seconds"])]
    return "  ".join(parts) + ("  best" if better else "")


class Bar(Callback):
    """A bar an epoch, with the loss and the speed so far."""

    INTERVAL = 0.2  # seconds between two looks at the metrics, which cost more than a bar

    def __init__(self, console: Console) -> None:
        self.bar = make_bar(console, live=True)
        self.bar_task: TaskID | None = None
        self.drawn = 0.0

    def _show(self, description: str, total: int, done: int) -> None:
        self._hide()
        self.bar.start()
        self.bar_task = self.bar.add_task(description, total=total, completed=done, metrics="")

    def _hide(self) -> None:
        if self.bar_task is not None:
            self.bar.remove_task(self.bar_task)
            self.bar_task = None
        self.bar.stop()

    def on_train_batch_end(
        self, trainer: Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self.bar.disable or now - self.drawn < self.INTERVAL:
            return
        self.drawn = now
        task.tick()
        if self.bar_task is None:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._show(epoch, int(trainer.num_training_batches), batch_idx)
        speed = task.words or task.characters
        unit = "words/s" if task.words else "chars/s"
        metrics = f"loss {task.train_loss:.4f}  {speed / task.seconds:,.0f} {unit}"
        assert self.bar_task is not None
        self.bar.update(self.bar_task, completed=batch_idx + 1, metrics=metrics, refresh=True)

    def on_validation_start(self, trainer: Trainer, task: Any) -> None:
        if not self.bar.disable:
            self._show("held-out", int(sum(trainer.num_val_batches)), 0)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        task: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.bar_task is not None:
            self.bar.update(self.bar_task, completed=batch_idx + 1, refresh=True)

    def on_validation_end(self, trainer: Trainer, task: Any) -> None:
        self._hide()

    def on_train_end(self, trainer: Trainer, task: Any) -> None:
        self._hide()

    def on_exception(self, trainer: Trainer, task: Any, exception: BaseException) -> None:
        self._hide()
