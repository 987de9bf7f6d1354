"""Small training runs, and a way to stop them, for the tests of resuming."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastchar.training import Config
from fastchar.training.callbacks import KeepRun
from fastchar.training.console import make_console

QUIET = make_console(stderr=True)
PAIRS = {"batch_size": 16, "dropout": 0.3, "patience": 2}


def config_of(folder: Path, name: str, data: Path, **options: object) -> Config:
    small = {"embedding_dim": 8, "hidden_size": 12, "warmup": 2, "epochs": 3}
    return Config(**{**small, "data": str(data), "out": str(folder / name), **options})


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ctrl-C, as it were, while the run's batch number `batches` (from 1) is worked on."""
    end_of_batch = KeepRun.on_train_batch_end

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        if trainer.global_step == batches:
            self.request.made = True
        end_of_batch(self, trainer, task, outputs, batch, batch_idx)

    monkeypatch.setattr(KeepRun, "on_train_batch_end", on_train_batch_end)
