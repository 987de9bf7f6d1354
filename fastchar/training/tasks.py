"""The Lightning modules: one training step, one validation, and all that a checkpoint must hold.

A checkpoint holds, besides Lightning's own (weights, Adam's moments, loop counters): the loaders'
position, the schedule, the random generators, the sums of the epoch so far, and for a language
model the state carried from chunk to chunk. So a resumed run computes the same bits.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fastchar.models import CharLM, Seq2Seq
from fastchar.training.batches import PairBatch, TextBatch
from fastchar.training.metrics import ErrorRates, count_errors
from fastchar.training.schedules import Schedule


class Task(LightningModule):
    """What both models share.

    ``record`` is the last finished epoch as a dict of numbers, a row of ``metrics.csv``.
    """

    # The number in `record` that says which epoch is the best: the lower, the better.
    monitor: str
    record: dict[str, float]
    # Of the validation so far: loss in nats, and symbols.
    dev_sum: Tensor
    dev_symbols: int

    def __init__(self, model: Seq2Seq | CharLM, schedule: Schedule) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.record = {}
        self._random: dict[str, Any] | None = None
        self._reset_sums()

    def _reset_sums(self) -> None:
        # Of the epoch so far: loss in nats, as a tensor so that no step waits for it, and counts.
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.symbols = 0  # predicted
        self.characters = 0  # read or predicted
        self.words = 0
        self.seconds = 0.0

    @property
    def train_loss(self) -> float:
        """The mean loss of the epoch so far, in nats per predicted symbol."""
        return float(self.loss_sum) / max(self.symbols, 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.schedule.peak, fused=True)

    def on_train_start(self) -> None:
        # Here, because whatever Lightning does before may draw random numbers.
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"])
            if self._random["cuda"]:
                torch.cuda.set_rng_state_all(self._random["cuda"])
            self._random = None
        self.loss_sum = self.loss_sum.to(self.device)
        self._started = time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.schedule.rate(self.global_step)

    def _count(self, loss: Tensor, *, symbols: int, characters: int, words: int = 0) -> None:
        self.loss_sum += loss.detach().double() * symbols
        self.symbols += symbols
        self.characters += characters
        self.words += words

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.tick()

    def tick(self) -> None:
        """Bring ``seconds`` up to now: all time since the last call, or the last validation."""
        now = time.perf_counter()
        self.seconds += now - self._started
        self._started = now

    def on_validation_start(self) -> None:
        self.dev_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.dev_symbols = 0

    def _count_held_out(self, loss: Tensor, symbols: int) -> None:
        self.dev_sum += loss.detach().double() * symbols
        self.dev_symbols += symbols

    @property
    def dev_loss(self) -> float:
        """The mean loss of the validation so far, in nats per predicted symbol."""
        return float(self.dev_sum) / max(self.dev_symbols, 1)

    def on_validation_epoch_end(self) -> None:
        seconds = max(self.seconds, 1e-9)
        dev_loss = self.dev_loss
        self.record = {
            "epoch": self.current_epoch + 1,
            "step": self.global_step,
            "learning_rate": self.schedule.rate(self.global_step - 1),
            "train_loss": self.train_loss,
            "dev_loss": dev_loss,
            **self.own_metrics(dev_loss),
            "chars_per_s": self.characters / seconds,
            "seconds": self.seconds,
        }
        # After the record, which has the rate of the epoch's own last step.
        self.schedule.epoch_ended(dev_loss)
        # For TensorBoard.
        self.log_dict({k: v for k, v in self.record.items() if k not in ("epoch", "step")})
        self._reset_sums()
        self.loss_sum = self.loss_sum.to(self.device)

    def on_validation_end(self) -> None:
        self._started = time.perf_counter()

    def own_metrics(self, dev_loss: float) -> dict[str, float]:
        """What ``record`` has besides, of this kind of model."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["fastchar"] = {
            "schedule": self.schedule.state_dict(),
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "sums": {
                name: getattr(self, name)
                for name in ("loss_sum", "symbols", "characters", "words", "seconds")
            },
            "record": self.record,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["fastchar"]
        self.schedule.load_state_dict(state["schedule"])
        self._random = state["random"]
        self.record = state["record"]
        for name, value in state["sums"].items():
            setattr(self, name, value)


class Seq2SeqTask(Task):
    """Pairs under teacher forcing; greedy decoding of the held-out words after each epoch."""

    model: Seq2Seq
    monitor = "dev_wer"

    def __init__(
        self, model: Seq2Seq, schedule: Schedule, references: list[list[list[str]]]
    ) -> None:
        """``references``: of each held-out word, by its index in the loader, in symbols."""
        super().__init__(model, schedule)
        self.references = references
        self.rates = ErrorRates()

    def transfer_batch_to_device(
        self, batch: PairBatch, device: torch.device, dataloader_idx: int
    ) -> PairBatch:
        # Lengths stay on the CPU, where the kernels read them.
        return batch._replace(source=batch.source.to(device), target=batch.target.to(device))

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        loss = self.model(batch.source, batch.source_lengths, batch.target)
        B = batch.which.numel()
        symbols = int(batch.target_lengths.sum()) - B  # <bos> is given, not predicted
        characters = int(batch.source_lengths.sum()) + symbols - 2 * B  # without <eos>
        self._count(loss, symbols=symbols, characters=characters, words=B)
        return loss

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self.rates = ErrorRates()

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        loss = self.model(batch.source, batch.source_lengths, batch.target)
        self._count_held_out(loss, int(batch.target_lengths.sum()) - batch.which.numel())
        found, _ = self.model.greedy(batch.source, batch.source_lengths)
        symbols = self.model.target.symbols
        for i, ids in zip(batch.which.tolist(), found, strict=True):
            self.rates += count_errors([symbols[j] for j in ids], self.references[i])

    def own_metrics(self, dev_loss: float) -> dict[str, float]:
        words_per_s = self.words / max(self.seconds, 1e-9)
        return {"dev_wer": self.rates.wer, "dev_per": self.rates.per, "words_per_s": words_per_s}


class CharLMTask(Task):
    """Truncated back-propagation through time: the state goes on from chunk to chunk."""

    model: CharLM
    monitor = "dev_loss"

    def __init__(self, model: CharLM, schedule: Schedule) -> None:
        super().__init__(model, schedule)
        self.state: Any = None
        self.dev_state: Any = None

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        state = None if batch.first else self.state
        loss, self.state = self.model(batch.ids, batch.targets, state)
        symbols = batch.targets.numel()
        self._count(loss, symbols=symbols, characters=symbols)
        return loss

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        state = None if batch.first else self.dev_state
        loss, self.dev_state = self.model(batch.ids, batch.targets, state)
        self._count_held_out(loss, batch.targets.numel())

    def own_metrics(self, dev_loss: float) -> dict[str, float]:
        return {"dev_bits": dev_loss / math.log(2)}

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.state is not None:  # from a checkpoint, which is read to the CPU
            self.state = tuple(s.to(self.device) for s in self.state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["fastchar"]["state"] = self.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.state = checkpoint["fastchar"]["state"]
