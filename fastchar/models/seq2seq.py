"""Encoder, attention, decoder: text in one alphabet to text in another, symbol by symbol.

Shapes: S source steps, T target steps, B sentences, K hypotheses a sentence (1 in training),
E embedding, H hidden, L decoder layers, V target symbols. Everything is time-major, [T, B, ...].
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastchar import functional
from fastchar.decoding import Found, beam_search, greedy_search, inference
from fastchar.models.attention import Attention, Memory, Score
from fastchar.models.encoder_decoder import Decoder, DecoderState, Encoder, InputFeedingDecoder
from fastchar.models.pretrained import Pretrained
from fastchar.text import Vocabulary, batches_by_length, pad


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


class Seq2Seq(Pretrained):
    """Bidirectional LSTM encoder, global attention, LSTM decoder.

    Args:
        source, target: the vocabularies, kept with the model.
        embedding_dim: E, of both sides.
        hidden_size: H, of the decoder and of each direction of the encoder.
        encoder_layers, decoder_layers: numbers of LSTM layers.
        attention: the score, `"dot"`, `"general"` (Luong) or `"additive"` (Bahdanau).
        input_feeding: each decoder step also reads the attentional vector of the step before.
        dropout: probability, between LSTM layers, on the encoder's states and the attentional
            vectors.
        label_smoothing: as `F.cross_entropy` has it; in training mode only, so that the loss of a
            validation is the plain one.

    Parameters start as torch's own modules have them (embeddings N(0, 1), the rest uniform within
    1 / sqrt(fan-in)): on CMUdict, orthogonal recurrent weights, small embeddings and a forget bias
    of 1 together were slower to learn.

    A source sentence is its symbols and <eos>, a target one <bos>, its symbols and <eos>:
    `model.source.encode(text, eos=True)`, `model.target.encode(text, bos=True, eos=True)`, and
    `fastchar.text.pad` to lay them side by side.
    """

    model_name = "seq2seq"
    vocabulary_names = ("source", "target")

    def __init__(
        self,
        source: Vocabulary,
        target: Vocabulary,
        *,
        embedding_dim: int = 128,
        hidden_size: int = 256,
        encoder_layers: int = 1,
        decoder_layers: int = 1,
        attention: Score = "general",
        input_feeding: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.config: dict[str, Any] = {
            "embedding_dim": embedding_dim,
            "hidden_size": hidden_size,
            "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers,
            "attention": attention,
            "input_feeding": input_feeding,
            "dropout": dropout,
            "label_smoothing": label_smoothing,
        }
        E, H, L = embedding_dim, hidden_size, decoder_layers
        self.label_smoothing = label_smoothing
        self.encoder = Encoder(len(source), E, H, encoder_layers, L, dropout)
        decoder = InputFeedingDecoder if input_feeding else Decoder
        self.decoder = decoder(len(target), E, H, L, Attention(2 * H, H, attention), dropout)
        self.output = nn.Linear(H, len(target))

    def forward(self, source_ids: Tensor, source_lengths: Tensor, target_ids: Tensor) -> Tensor:
        """The mean loss in nats per target symbol, <eos> counted, under teacher forcing.

        source_ids int64 [S, B], source_lengths int64 [B], target_ids int64 [T, B]: <bos>, symbols,
        <eos>, then <pad>.
        """
        inputs, targets = target_ids[:-1], target_ids[1:]
        vectors, _ = self._force(source_ids, source_lengths, inputs, targets)
        smoothing = self.label_smoothing if self.training else 0.0
        return self._loss(vectors, targets, label_smoothing=smoothing)

    def score(
        self, source_ids: Tensor, source_lengths: Tensor, target_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of given targets, and the attention that goes with them.

        Arguments as `forward`, and target_ids may be [T, K*B], target k of sentence b in column
        k*B + b. Returns nats [K*B] and weights [B, T-1, K, S].
        """
        with inference(self):
            inputs, targets = target_ids[:-1], target_ids[1:]
            vectors, weights = self._force(source_ids, source_lengths, inputs, targets)
            loss = self._loss(vectors, targets, reduction="none")
            B = source_ids.shape[1]
            log_prob = -loss.view_as(targets).sum(0)
            return log_prob, weights.unflatten(1, (inputs.shape[0], targets.shape[1] // B))

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
        ids, lengths = pad(sources, device=self.output.weight.device)
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
        _, weights = self.score(ids, lengths, pad(columns, device=ids.device)[0])
        weights = weights.cpu()  # [B, T, K, S]
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

    def _encode(self, ids: Tensor, lengths: Tensor) -> tuple[Memory, DecoderState]:
        states, start = self.encoder(ids, lengths)
        return self.decoder.attention.memory(states, lengths), start

    def _force(
        self, source_ids: Tensor, source_lengths: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attentional vectors [T, K*B, H] and weights [B, T*K, S] of given inputs [T, K*B]."""
        B, columns = source_ids.shape[1], inputs.shape[1]
        if columns < B or columns % B:
            raise ValueError(
                f"target_ids: expected {B} columns, or a multiple, for {B} sources, got {columns}"
            )
        memory, state = self._encode(source_ids, source_lengths)
        repeats = columns // B
        state = tuple(s.repeat(1, repeats, 1) for s in state)
        lengths = (targets != Vocabulary.pad_id).sum(0)
        vectors, weights, _ = self.decoder(inputs, state, memory, lengths)
        return vectors, weights

    def _loss(self, vectors: Tensor, targets: Tensor, **options: Any) -> Tensor:
        """Of attentional vectors [T, K*B, H], at the symbols [T, K*B] that are not <pad>."""
        return functional.linear_cross_entropy(
            vectors.flatten(0, 1),
            self.output.weight,
            targets.flatten(),
            linear_bias=self.output.bias,
            ignore_index=Vocabulary.pad_id,
            **options,
        )

    def _step(
        self, last: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState]:
        """The step of a search: last symbols [K*B] to log-probabilities [K*B, V] and state."""
        vectors, _, state = self.decoder(last.unsqueeze(0), state, memory)
        logits = self.output(vectors[0])
        # Not in half precision, in which the sum over a target's symbols is off in the third digit.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return logits.log_softmax(-1, dtype=dtype), state

    @staticmethod
    def _limits(source_lengths: Tensor, max_length: int | None) -> Tensor:
        if max_length is None:
            return 3 * source_lengths + 10
        if max_length < 0:
            raise ValueError(f"max_length: expected 0 or more, got {max_length}")
        return torch.full_like(source_lengths, max_length)
