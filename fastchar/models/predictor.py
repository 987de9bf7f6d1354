"""From texts to their most probable targets, by whatever reads a source and tells what comes next.

Shapes as in `fastchar.models.seq2seq`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fastchar.decoding import Found, Memory, State, beam_search, greedy_search, inference
from fastchar.text import Vocabulary, batches_by_length, pad

M = TypeVar("M", bound=Memory)


@dataclass(frozen=True)
class Hypothesis:
    """One predicted target of a source text. Equal are those with equal ids and numbers, whatever
    their attention: a comparison of tensors is no yes or no."""

    text: str
    ids: list[int]  # without <bos> and <eos>
    log_prob: float  # of the ids and <eos> together, in nats
    score: float  # log_prob with the search's length normalisation
    # [len(ids) + 1, S], each row's sum 1; the last symbol of both sides is <eos>
    attention: Tensor = field(compare=False)


class Predictor(nn.Module, Generic[M]):
    """What `Seq2Seq` and `Ensemble` have in common; M is what they keep of the sources."""

    source: Vocabulary
    target: Vocabulary

    def _encode(self, ids: Tensor, lengths: Tensor) -> tuple[M, State]:
        """Sources [S, B], lengths [B] to their memory, and the state before the first symbol."""
        raise NotImplementedError

    def _step(self, last: Tensor, state: State, memory: M) -> tuple[Tensor, State]:
        """The step of a search: last symbols [K*B] to log-probabilities [K*B, V] and state."""
        raise NotImplementedError

    def _log_probs(self, memory: M, state: State, target_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [T-1, K*B] of the symbols of given targets [T, K*B], 0 at <pad>, and
        the weights [B, (T-1)*K, S] of their attention, from what `_encode` gives."""
        raise NotImplementedError

    def score(
        self, source_ids: Tensor, source_lengths: Tensor, target_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of given targets, and the attention that goes with them.

        source_ids int64 [S, B], source_lengths int64 [B], target_ids int64 [T, K*B], target k of
        sentence b in column k*B + b: <bos>, symbols, <eos>, then <pad>. Returns nats [K*B] and
        weights [B, T-1, K, S].
        """
        check_batch(source_ids, source_lengths, target_ids)
        with inference(self):
            memory, state = self._encode(source_ids, source_lengths)
            log_probs, weights = self._log_probs(memory, state, target_ids)
            repeats = target_ids.shape[1] // source_ids.shape[1]
            return log_probs.sum(0), weights.unflatten(1, (len(log_probs), repeats))

    def greedy(
        self, source_ids: Tensor, source_lengths: Tensor, max_length: int | None = None
    ) -> tuple[list[list[int]], Tensor]:
        """The most probable symbol at every step, for each sentence of a batch.

        Returns B id lists without <bos> and <eos>, and log-probabilities [B] in nats, float64 on
        the CPU. `max_length` symbols at most, by default 3 for each source symbol and 10 more.
        """
        with inference(self):
            memory, state = self._encode(source_ids, source_lengths)
            limits = self._limits(source_lengths.long(), max_length).to(source_ids.device)
            return greedy_search(self._step, state, memory, limits)

    def predict(
        self,
        texts: Iterable[str],
        *,
        beam: int = 1,
        n_best: int = 1,
        length_penalty: float = 0.0,
        max_length: int | None = None,
        batch_size: int = 256,
    ) -> list[list[Hypothesis]]:
        """The `n_best` best targets of each text, best first; symbols never seen count as <unk>.

        Greedy search with `beam` 1, else beam search. Hypotheses are ranked by
        log_prob / length ** length_penalty, length counting <eos>: 0, the default, ranks by
        probability, 1 by the mean over symbols, which favours longer ones. `max_length` as in
        `greedy`. What a text is batched with makes no difference. Raises `ValueError` for an option
        that makes no sense, and `TypeError` for one text that is in no list.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected several texts, got one str; wrap it in a list")
        if beam < 1:
            raise ValueError(f"beam: expected 1 or more, got {beam}")
        if not 1 <= n_best <= beam:
            raise ValueError(f"n_best: expected 1 to beam ({beam}), got {n_best}")
        if not 0 <= length_penalty < math.inf:
            raise ValueError(
                f"length_penalty: expected 0 or more, and finite, got {length_penalty}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        sources = [self.source.encode(text, eos=True) for text in texts]
        results: list[list[Hypothesis]] = [[] for _ in sources]
        with inference(self):
            for chosen in batches_by_length([len(s) for s in sources], batch_size):
                batch = [sources[i] for i in chosen]
                hypotheses = self._predict(batch, beam, n_best, length_penalty, max_length)
                for i, hypothesis in zip(chosen, hypotheses, strict=True):
                    results[i] = hypothesis
        return results

    def _predict(
        self,
        sources: list[list[int]],
        beam: int,
        n_best: int,
        length_penalty: float,
        max_length: int | None,
    ) -> list[list[Hypothesis]]:
        ids, lengths = pad(sources, device=next(self.parameters()).device)
        memory, state = self._encode(ids, lengths)
        limits = self._limits(lengths, max_length).to(ids.device)
        if beam == 1:
            best, log_probs = greedy_search(self._step, state, memory, limits)
            found = [
                [Found(i, p, p / (len(i) + 1) ** length_penalty)]
                for i, p in zip(best, log_probs.tolist(), strict=True)
            ]
        else:
            found = beam_search(
                self._step,
                state,
                memory,
                limits,
                beam=beam,
                n_best=n_best,
                length_penalty=length_penalty,
            )
        if not all(found):
            raise ValueError("model: expected log-probabilities, got NaN or -inf for every target")
        # Attention is that of one more pass over what was found, as one sequence.
        columns = [
            [Vocabulary.bos_id, *each[k].ids, Vocabulary.eos_id] if k < len(each) else []
            for k in range(n_best)
            for each in found
        ]
        _, weights = self._log_probs(memory, state, pad(columns, device=ids.device)[0])
        weights = weights.unflatten(1, (-1, n_best)).cpu()  # [B, T, K, S]
        return [
            [
                Hypothesis(
                    self.target.decode(best.ids),
                    best.ids,
                    best.log_prob,
                    best.score,
                    weights[b, : len(best.ids) + 1, k, : len(sources[b])].clone(),
                )
                for k, best in enumerate(each)
            ]
            for b, each in enumerate(found)
        ]

    @staticmethod
    def _limits(source_lengths: Tensor, max_length: int | None) -> Tensor:
        if max_length is None:
            return 3 * source_lengths + 10
        if max_length < 0:
            raise ValueError(f"max_length: expected 0 or more, got {max_length}")
        return torch.full_like(source_lengths, max_length)


def check_batch(source_ids: Tensor, source_lengths: Tensor, target_ids: Tensor) -> None:
    """Raises `ValueError` for the wrong number of dimensions, as of arguments in another order, for
    targets that are no ids, and for a number of them that is no multiple of the sources'."""
    for name, tensor, shape in (
        ("source_ids", source_ids, "S, B"),
        ("source_lengths", source_lengths, "B"),
        ("target_ids", target_ids, "T, K*B"),
    ):
        if tensor.dim() != shape.count(",") + 1:
            raise ValueError(f"{name}: expected [{shape}], got shape {list(tensor.shape)}")
    if target_ids.dtype is not torch.int64:
        raise ValueError(f"target_ids: expected int64, got {target_ids.dtype}")
    B, columns = source_ids.shape[1], target_ids.shape[1]
    if columns < B or columns % B:
        raise ValueError(
            f"target_ids: expected {B} columns, or a multiple, for {B} sources, got {columns}"
        )
