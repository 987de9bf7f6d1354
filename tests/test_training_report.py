"""What a run says of itself is what it did: the lines of an epoch, of the data and of the end."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from training_runs import QUIET

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.training import report
from fastchar.training.callbacks import describe
from fastchar.training.data import PairData, TextData
from fastchar.training.evaluation import evaluate
from fastchar.training.folder import RunFolder
from fastchar.training.run import _describe

LETTERS, PHONES = Vocabulary("abcd"), Vocabulary(["P", "Q"], mode="separated")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plot_curve", "plot_embedding", "plot_attention"):
        monkeypatch.setattr(report, name, lambda *args: None)


def test_an_epoch_in_a_line() -> None:
    """Each number under its own name; only what is better than all before is the best."""
    record = {"epoch": 3, "train_loss": 0.5, "dev_loss": 0.75, "chars_per_s": 4000, "seconds": 75}
    words = {**record, "dev_wer": 0.25, "dev_per": 0.125, "words_per_s": 600}
    assert re.sub(" +", " ", describe(words, 12, better=True)) == (
        "epoch 3/12 loss 0.5000 dev 0.7500 WER 25.00% PER 12.50% "
        "600 words/s 4,000 chars/s 1:15 best"
    )
    assert re.sub(" +", " ", describe({**record, "dev_bits": 1.5}, 12, better=False)) == (
        "epoch 3/12 loss 0.5000 dev 0.7500 1.500 bits/symbol 4,000 chars/s 1:15"
    )


def test_pairs(tmp_path: Path) -> None:
    """What was read, on which side; at the end, error rates against all references."""
    model = Seq2Seq(LETTERS, PHONES, embedding_dim=4, hidden_size=4).eval()
    ((best,),) = model.predict(["ab"])
    dev = [("ab", "P P Q"), ("ab", best.text), ("cd", "Q " * 40)]
    data = PairData([("a", "P")] * 3, dev, LETTERS, PHONES, batch_size=2, seed=1)
    assert _describe(data) == (
        "3 pairs to train on, 2 words held out, 8 source and 6 target symbols (separated)"
    )
    said: list[str] = []
    report.write_report(model, data, RunFolder(tmp_path), said.append, QUIET)
    rates = evaluate(model, dev).rates
    assert rates.per != rates.wer == 0.5
    assert said == [f"held out: 2 words, WER 50.00%, PER {rates.per:.2%}"]


def test_a_text(tmp_path: Path) -> None:
    """At the end, the loss of the epoch that was kept."""
    model = CharLM(LETTERS, embedding_dim=4, hidden_size=4)
    data = TextData("abcd" * 10, "abcdc", LETTERS, batch_size=2, chunk=4)
    assert _describe(data) == "38 symbols to train on, 4 held out, a vocabulary of 8"
    folder, said = RunFolder(tmp_path), []
    for epoch, loss in enumerate((2.0, 1.5, 1.75), 1):
        folder.append_metrics({"epoch": epoch, "dev_loss": loss})
    report.write_report(model, data, folder, said.append, QUIET)
    assert said == [f"held out: 1.5000 nats, {1.5 / math.log(2):.3f} bits a symbol"]
