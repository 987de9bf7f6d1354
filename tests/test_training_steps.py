"""A training step: the settings that make it what it is reach the model and the optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_data import few_pairs, write_pairs
from training_runs import QUIET

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.text import pad
from fastchar.training import Config, train
from fastchar.training.batches import PairLoader, Ragged, TextLoader
from fastchar.training.data import make_data
from fastchar.training.evaluation import text_loss
from fastchar.training.folder import read_metrics
from fastchar.training.run import make_task
from fastchar.training.schedules import Schedule
from fastchar.training.tasks import CharLMTask, Seq2SeqTask, Task

pytestmark = pytest.mark.usefixtures("fast_runs")


def _config(folder: Path, **options: Any) -> Config:
    small = {"embedding_dim": 8, "hidden_size": 12, "batch_size": 4, "epochs": 2}
    return Config(
        data=str(write_pairs(folder / "pairs.tsv", few_pairs()[:60])),
        dev=str(write_pairs(folder / "dev.tsv", few_pairs()[60:70])),
        out=str(folder / "run"),
        **{**small, **options},
    )


@pytest.mark.parametrize("clip", [0.05, 0.0])
def test_rates_and_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float) -> None:
    """Each step is made with the schedule's rate, over all epochs and after a warm-up of a tenth of
    them, and with a gradient no longer than `clip`; the metrics have each epoch's last rate."""
    steps: list[tuple[float, float]] = []
    configure = Task.configure_optimizers

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        (group,) = optimizer.param_groups
        norm = nn.utils.get_total_norm([p.grad for p in group["params"]])
        steps.append((group["lr"], float(norm)))

    def watched(task: Task) -> torch.optim.Optimizer:
        optimizer = configure(task)
        optimizer.register_step_post_hook(look)
        return optimizer

    monkeypatch.setattr(Task, "configure_optimizers", watched)
    config = _config(tmp_path, learning_rate=0.01, clip=clip)
    train(config, QUIET)
    rates, norms = zip(*steps, strict=True)
    schedule = Schedule("cosine", peak=0.01, warmup=3, total=30)
    assert rates == pytest.approx([schedule.rate(step) for step in range(30)])
    assert (max(norms) < 1.001 * clip) == (clip > 0)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates[14::15], rel=1e-5)


def test_metrics_are_of_one_epoch(tmp_path: Path) -> None:
    """Each row counts its own epoch, and nothing of those before it."""
    train(_config(tmp_path, learning_rate=0.0, dropout=0.0), QUIET)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert len(rows) == 2
    for row in rows:
        assert row["words_per_s"] * row["seconds"] == pytest.approx(60, rel=1e-4)
    assert rows[0]["dev_per"] == rows[1]["dev_per"]


CONSTANT = Schedule("constant", peak=0.0, warmup=0, total=1)


def test_the_held_out_loss_of_pairs_is_a_mean_over_symbols() -> None:
    """Of batches of unequal size too, which small sets have none of."""
    pairs = [("a" * n, "b" * (1 + n % 4)) for n in range(1, 12)]
    source, target = Vocabulary("a"), Vocabulary("b")
    model = Seq2Seq(source, target, embedding_dim=4, hidden_size=4).eval()
    task = Seq2SeqTask(model, CONSTANT, [[["b"]]] * 11)
    sources = [source.encode(s, eos=True) for s, _ in pairs]
    targets = [target.encode(t, bos=True, eos=True) for _, t in pairs]
    with torch.no_grad():
        task.on_validation_start()
        for batch in PairLoader(Ragged(sources), Ragged(targets), 5, seed=None):
            task.validation_step(batch, 0)
        expected = model(*pad(sources), pad(targets)[0])
    assert task.dev_loss == pytest.approx(float(expected), rel=1e-6)


def test_the_held_out_loss_of_a_text_is_a_mean_over_symbols() -> None:
    """The last chunk, which is a short one, counts for no more than its symbols."""
    text = "a" * 40 + "b"
    model = CharLM(Vocabulary("ab"), embedding_dim=4, hidden_size=4).eval()
    task = CharLMTask(model, CONSTANT)
    with torch.no_grad():
        model.output.bias[4] = 3.0  # a, and b is a surprise
        task.on_validation_start()
        for batch in TextLoader(torch.tensor(model.vocabulary.encode(text)), 1, 39):
            task.validation_step(batch, 0)
    assert task.dev_loss == pytest.approx(text_loss(model, text), rel=1e-6)


MODELS = {
    "seq2seq": {
        "encoder_layers": 2,
        "decoder_layers": 3,
        "attention": "additive",
        "input_feeding": True,
        "label_smoothing": 0.4,
    },
    "char_lm": {"num_layers": 2, "tie_embeddings": True},
}


@pytest.mark.parametrize("model", MODELS)
def test_settings_are_the_models(model: Any) -> None:
    """None of those that a model has is left at its default; embeddings begin small."""
    options = {"embedding_dim": 30, "hidden_size": 6, "dropout": 0.3, **MODELS[model]}
    config = Config(data="-", model=model, batch_size=2, **options)
    pairs = list(few_pairs()[:60])
    content = pairs if model == "seq2seq" else " ".join(word for word, _ in pairs)
    made = make_task(config, make_data(config, content)).model
    assert made.config == options
    for module in made.modules():
        if isinstance(module, nn.Embedding):
            assert module.weight.std().item() == pytest.approx(0.3, rel=0.2)
