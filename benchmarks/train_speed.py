"""Words a second of `fastchar train`'s own loop against the twin's, interleaved in one process.

The loop is Lightning's, with fastchar's task, loader, clipping and optimizer, the model `Seq2Seq`
with its defaults. After every block of batches a callback stops the clock and lets each twin train
on the very same words: bucketed, in the same batches; unbucketed, the block's words shuffled and
cut anew. There are two twins, by hand in plain torch: `twin.Twin`, the same model with the same
attention after the loop, and `attentive_twin.AttentiveTwin`, the model of other toolkits, whose
decoder's cell reads the attention's context, so that attention is inside the loop. Embedding 128,
hidden 256, one layer each way, batch 256, no dropout, on CMUdict.
"""

import copy
import logging
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from fastchar import Seq2Seq
from fastchar.demo import dictionary
from fastchar.training.batches import PairBatch, Ragged
from fastchar.training.config import Config
from fastchar.training.data import PairData, make_data
from fastchar.training.schedules import Schedule
from fastchar.training.tasks import Seq2SeqTask

from . import machine
from .attentive_twin import AttentiveTwin
from .interleave import Spread
from .tables import BUCKETED, SPEED
from .twin import Pair, Twin, train

OURS = "fastchar train"
SAME = "plain torch, same model"
ATTENTIVE = "plain torch, attention in the loop"
BATCH = 256
BLOCK = 16  # batches; 4096 words
ROUNDS = {"quick": 5, "full": 9}

Block = Sequence[Sequence[int]]  # batches of indices of words
Trained = Callable[[Block], None]
Cut = Callable[[Block], Block]


class Interleaver(Callback):
    """Hands every block's batches to the twins after our loop has trained on them.

    `seconds` by contestant, one entry a block; the first block, a warm-up, is left out.
    """

    def __init__(self, twins: dict[str, Trained]) -> None:
        self.twins = twins
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *twins)}
        self._block: list[list[int]] = []
        self._rounds = 0

    def on_train_start(self, trainer: Trainer, task: Any) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, task: Any, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        self._block.append(batch.which.tolist())
        if len(self._block) < BLOCK:
            return
        samples = {OURS: time.perf_counter() - self._started}
        order = list(self.twins.items())
        for name, trained in order[:: 1 if self._rounds % 2 else -1]:
            start = time.perf_counter()
            trained(self._block)
            samples[name] = time.perf_counter() - start
        if self._rounds:
            for name, seconds in samples.items():
                self.seconds[name].append(seconds)
        self._rounds += 1
        self._block = []
        self._started = time.perf_counter()


def as_it_is(block: Block) -> Block:
    """The block's own batches, which are alike in length."""
    return block


def shuffled(block: Block) -> Block:
    """The block's words cut into as many batches without regard to their lengths."""
    words = [word for batch in block for word in batch]
    random.shuffle(words)
    return [words[start : start + BATCH] for start in range(0, len(words), BATCH)]


def measure(grid: str) -> dict[str, Any]:
    """Trains all of them for ROUNDS blocks; returns the result file's content."""
    config = Config(
        data="cmudict",
        embedding_dim=128,
        hidden_size=256,
        batch_size=BATCH,
        dropout=0.0,
        label_smoothing=0.0,
    )
    data = make_data(config, dictionary())
    assert isinstance(data, PairData)
    model = Seq2Seq(data.source, data.target, **config.model_options())
    pairs = list(zip(_sequences(data.train.source), _sequences(data.train.target), strict=True))
    same = Twin(len(data.source), len(data.target))
    same.load_seq2seq(model.state_dict())
    twins = {SAME: same, ATTENTIVE: AttentiveTwin(len(data.source), len(data.target))}
    trained, parameters = {}, {OURS: count_parameters(model)}
    for twin, start in twins.items():
        for name, cut in ((f"{twin}, {BUCKETED}", as_it_is), (f"{twin}, not bucketed", shuffled)):
            trained[name] = _trained(copy.deepcopy(start), config, pairs, cut)
            parameters[name] = count_parameters(start)
    interleaver = Interleaver(trained)
    steps = (ROUNDS[grid] + 1) * BLOCK
    schedule = Schedule(
        config.schedule, peak=config.learning_rate, warmup=config.warmup, total=steps
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        gradient_clip_val=config.clip,
        callbacks=[interleaver],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    record = machine.Record(SPEED, "Training speed, CMUdict", grid=grid)
    trainer.fit(Seq2SeqTask(model, schedule, data.dev_references), datamodule=data)
    return record.result(
        ours=OURS,
        sizes={"embedding": 128, "hidden": 256, "layers": 1, "batch": BATCH},
        parameters=parameters,
        **speeds(interleaver.seconds, words=BLOCK * BATCH),
    )


def speeds(seconds: dict[str, list[float]], words: int) -> dict[str, Any]:
    """Words a second by contestant and ours by theirs, from the seconds of each block."""
    return {
        "words_per_second": {
            name: asdict(Spread.of([words / s for s in samples]))
            for name, samples in seconds.items()
        },
        "ratios": {
            name: asdict(Spread.of([a / b for a, b in zip(samples, seconds[OURS], strict=True)]))
            for name, samples in seconds.items()
            if name != OURS
        },
    }


def _sequences(ragged: Ragged) -> tuple[Tensor, ...]:
    return ragged.ids.split(ragged.lengths.tolist())


def _trained(model: nn.Module, config: Config, pairs: Sequence[Pair], cut: Cut) -> Trained:
    """What trains a twin on the words of a block, cut into batches by `cut`."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    return lambda block: train(model, optimizer, pairs, cut(block))


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
