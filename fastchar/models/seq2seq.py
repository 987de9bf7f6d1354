"""Encoder, attention, decoder: text in one alphabet to text in another, symbol by symbol.

Shapes: S source steps, T target steps, B sentences, K hypotheses a sentence (1 in training),
E embedding, H hidden, L decoder layers, V target symbols. Everything is time-major, [T, B, ...].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastchar import functional
from fastchar.models.attention import Attention, Memory, Score
from fastchar.models.encoder_decoder import Decoder, DecoderState, Encoder, InputFeedingDecoder
from fastchar.models.predictor import Predictor, check_batch
from fastchar.models.pretrained import Pretrained, check_vocabulary
from fastchar.text import Vocabulary


class Seq2Seq(Predictor[Memory], Pretrained):
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
        check_vocabulary("source", source)
        check_vocabulary("target", target)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing: expected 0 to 1, got {label_smoothing}")
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
        check_batch(source_ids, source_lengths, target_ids)
        memory, state = self._encode(source_ids, source_lengths)
        vectors, targets, _ = self._force(memory, state, target_ids)
        smoothing = self.label_smoothing if self.training else 0.0
        return self._loss(vectors, targets, label_smoothing=smoothing)

    def _encode(self, ids: Tensor, lengths: Tensor) -> tuple[Memory, DecoderState]:
        states, (h, c) = self.encoder(ids, lengths)
        return self.decoder.attention.memory(states, lengths), self.decoder.start(h, c)

    def _force(
        self, memory: Memory, state: DecoderState, target_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of given targets [T, K*B]: attentional vectors [T-1, K*B, H], the symbols that they
        should lead to [T-1, K*B], and weights [B, (T-1)*K, S]."""
        inputs, targets = target_ids[:-1], target_ids[1:]
        repeats = inputs.shape[1] // memory.mask.shape[0]
        state = tuple(s.repeat(1, repeats, 1) for s in state)
        lengths = (targets != Vocabulary.pad_id).sum(0)
        vectors, weights, _ = self.decoder(inputs, state, memory, lengths)
        return vectors, targets, weights

    def _log_probs(
        self, memory: Memory, state: DecoderState, target_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        vectors, targets, weights = self._force(memory, state, target_ids)
        return -self._loss(vectors, targets, reduction="none").view_as(targets), weights

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
        vectors, _, state = self.decoder(last.unsqueeze(0), state, memory)
        logits = self.output(vectors[0])
        # Not in half precision, in which the sum over a target's symbols is off in the third digit.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return logits.log_softmax(-1, dtype=dtype), state
