"""What a finished run leaves besides its model: rates on all held-out data, and pictures."""

from __future__ import annotations

import math

from rich.console import Console

from fastchar.analysis.attention import Look, plot_attention
from fastchar.analysis.curve import plot_curve
from fastchar.analysis.embedding import embeddings, plot_embedding
from fastchar.models import CharLM, Seq2Seq
from fastchar.training.console import Say, track
from fastchar.training.data import PairData, TextData
from fastchar.training.evaluation import evaluate
from fastchar.training.folder import RunFolder


def write_report(
    model: Seq2Seq | CharLM,
    data: PairData | TextData,
    folder: RunFolder,
    say: Say,
    console: Console,
) -> None:
    """Say how good the best model is on everything held out, and draw what there is to see."""
    rows = folder.read_metrics()
    plot_curve(rows, folder.curve)
    plot_embedding(embeddings(model), folder.embedding)
    if isinstance(model, CharLM):
        loss = min(row["dev_loss"] for row in rows)
        say(f"held out: {loss:.4f} nats, {loss / math.log(2):.3f} bits a symbol")
        return
    assert isinstance(data, PairData)
    pairs = [(word, target) for word, targets in data.references.items() for target in targets]
    found = evaluate(
        model, pairs, progress=lambda items, total: track(items, console, "held-out words", total)
    )
    plot_attention(looks(model, list(data.references)), folder.attention)
    rates = found.rates
    say(f"held out: {rates.words:,} words, WER {rates.wer:.2%}, PER {rates.per:.2%}")


def looks(model: Seq2Seq, words: list[str], count: int = 6, length: int = 9) -> list[Look]:
    """Attention over a few of ``words``: those nearest to ``length`` symbols, spread evenly."""
    size = {word: len(model.source.split(word)) for word in words}
    near = sorted(words, key=lambda word: abs(size[word] - length))[: max(count, len(words) // 10)]
    near.sort()
    chosen = near[:: max(1, len(near) // count)][:count]
    end = "⏎"
    return [
        Look(
            word,
            [*model.source.split(word), end],
            [*(model.target.symbols[i] for i in best.ids), end],
            best.attention,
        )
        for word, (best, *_) in zip(chosen, model.predict(chosen), strict=True)
    ]
