"""Several models that predict as one.

Shapes as in `fastchar.models.seq2seq`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fastchar.decoding import State
from fastchar.models.attention import Memory
from fastchar.models.predictor import Predictor
from fastchar.models.seq2seq import Seq2Seq


class Memories(NamedTuple):
    """What each model's decoder reads of the sources, and of how many tensors its state is."""

    each: tuple[Memory, ...]
    sizes: tuple[int, ...]

    def select(self, sentences: Tensor) -> Memories:
        return Memories(tuple(memory.select(sentences) for memory in self.each), self.sizes)


class Ensemble(Predictor[Memories]):
    """Models of the same symbols, which may differ in all else: the probability of a next symbol is
    the mean of theirs, and so is the attention.

    It predicts as `Seq2Seq` does: `predict`, `greedy`, `score`. It has no loss of its own, since
    its models are trained one by one.

    Raises `TypeError` for a model that is no `Seq2Seq`, and `ValueError` for none at all and for
    one whose symbols are not those of the first.
    """

    def __init__(self, models: Iterable[Seq2Seq]) -> None:
        super().__init__()
        models = list(models)
        if not models:
            raise ValueError("models: expected one or more, got none")
        for i, model in enumerate(models):
            if not isinstance(model, Seq2Seq):
                raise TypeError(f"models: expected Seq2Seq, got {type(model).__name__}")
            for side in ("source", "target"):
                if getattr(model, side) != getattr(models[0], side):
                    raise ValueError(
                        f"models: expected the {side} symbols of the first in each, got others in "
                        f"number {i + 1}"
                    )
        self.models = nn.ModuleList(models)
        self.source, self.target = models[0].source, models[0].target

    def _each(self) -> list[Seq2Seq]:
        return [cast(Seq2Seq, model) for model in self.models]

    def _encode(self, ids: Tensor, lengths: Tensor) -> tuple[Memories, State]:
        memories, states = zip(*(m._encode(ids, lengths) for m in self._each()), strict=True)
        return Memories(memories, tuple(map(len, states))), sum(states, ())

    def _parts(self, memory: Memories, state: State) -> Iterator[tuple[Seq2Seq, Memory, State]]:
        """Each model with its own memory and state."""
        parts = iter(state)
        for model, own, size in zip(self._each(), memory.each, memory.sizes, strict=True):
            yield model, own, tuple(itertools.islice(parts, size))

    def _step(self, last: Tensor, state: State, memory: Memories) -> tuple[Tensor, State]:
        steps = [model._step(last, s, own) for model, own, s in self._parts(memory, state)]
        log_probs, states = zip(*steps, strict=True)
        return _mean(log_probs), sum(states, ())

    def _log_probs(
        self, memory: Memories, state: State, target_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        each = [m._log_probs(own, s, target_ids) for m, own, s in self._parts(memory, state)]
        log_probs, weights = zip(*each, strict=True)
        return _mean(log_probs), torch.stack(weights).mean(0)


def _mean(log_probs: Iterable[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities, as exact as theirs, however small they are."""
    each = torch.stack(tuple(log_probs))
    return each.logsumexp(0) - math.log(len(each))
