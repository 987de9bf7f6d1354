"""How good a model is on data that it has not seen, and where it errs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from fastchar.decoding import inference
from fastchar.files import Pair
from fastchar.models import CharLM, Hypothesis, Predictor
from fastchar.training.batches import TextLoader
from fastchar.training.metrics import Confusion, ErrorRates, closest, confusions
from fastchar.training.splits import references_of

T = TypeVar("T")
# Wraps an iterable of a known number of items, to show how far it is.
Progress = Callable[[Iterable[T], int], Iterable[T]]


@dataclass(frozen=True)
class Mistake:
    """A word whose best hypothesis equals none of its references."""

    source: str
    references: list[str]
    hypothesis: Hypothesis
    edits: int


@dataclass
class Evaluation:
    """Error rates, and what they are made of."""

    rates: ErrorRates = field(default_factory=ErrorRates)
    confusions: Counter[Confusion] = field(default_factory=Counter)
    mistakes: list[Mistake] = field(default_factory=list)


def evaluate(
    model: Predictor,
    pairs: Iterable[Pair],
    *,
    beam: int = 1,
    length_penalty: float = 0.0,
    batch_size: int = 256,
    progress: Progress[Sequence[str]] = lambda items, total: items,
) -> Evaluation:
    """The best hypothesis of every source against all of its references.

    The model is shown the sources and nothing else. Symbols are those that the model writes, and
    those that its vocabulary splits a reference into. Sources of which the model reads the same
    symbols, such as two spellings with one normal form, are one, by the name of the first.
    """
    names: dict[tuple[str, ...], str] = {}
    references = references_of(
        (names.setdefault(tuple(model.source.split(source)), source), target)
        for source, target in pairs
    )
    words = list(references)
    chunks = [words[i : i + batch_size] for i in range(0, len(words), batch_size)]
    split = model.target.split
    result = Evaluation()
    for chunk in progress(chunks, len(chunks)):
        predicted = model.predict(
            chunk, beam=beam, length_penalty=length_penalty, batch_size=batch_size
        )
        for word, (best, *_) in zip(chunk, predicted, strict=True):
            # Not those of its text: bytes that are no UTF-8 would be three each in it.
            hypothesis = [model.target.symbols[i] for i in best.ids]
            reference, edits = closest(hypothesis, [split(r) for r in references[word]])
            result.rates += ErrorRates(1, int(edits > 0), len(reference), edits)
            if edits:
                result.confusions += confusions(reference, hypothesis)
                result.mistakes.append(Mistake(word, references[word], best, edits))
    return result


def text_loss(
    model: CharLM,
    text: str,
    *,
    chunk: int = 512,
    progress: Progress[Any] = lambda items, total: items,
) -> float:
    """Nats per symbol of ``text``, read from its beginning to its end in one stream.

    The first symbol is not predicted. Raises ``ValueError`` for less than two symbols.
    """
    ids = torch.tensor(model.vocabulary.encode(text), dtype=torch.int64)
    return streams_loss(model, TextLoader(ids, 1, chunk), progress=progress)


def streams_loss(
    model: CharLM, loader: TextLoader, *, progress: Progress[Any] = lambda items, total: items
) -> float:
    """Nats per symbol of what ``loader`` reads, each stream from its beginning to its end; a
    stream's first symbol is not predicted."""
    device = model.output.weight.device
    total, symbols, state = 0.0, 0, None
    with inference(model):
        for batch in progress(loader, len(loader)):
            loss, state = model(batch.ids.to(device), batch.targets.to(device), state)
            total += float(loss) * batch.targets.numel()
            symbols += batch.targets.numel()
    return total / symbols
