"""What `Seq2Seq` is made of beside its attention: an encoder, and two decoders to choose from.

Shapes as in `fastchar.models.seq2seq`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastchar import functional
from fastchar.models.attention import Attention, Memory
from fastchar.models.dropout import Dropout
from fastchar.nn import Embedding, EmbeddingLSTM, LSTMCell

# (h [L, K*B, H], c [L, K*B, H]), and with input feeding the last attentional vector [1, K*B, H],
# zeros at the start.
DecoderState = tuple[Tensor, ...]


class Encoder(nn.Module):
    """A bidirectional LSTM over the source, and the bridge from its end to the decoder's start."""

    def __init__(
        self,
        symbols: int,
        embedding_dim: int,
        hidden_size: int,
        layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.rnn = EmbeddingLSTM(
            symbols,
            embedding_dim,
            hidden_size,
            layers,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = Dropout(dropout)
        self.bridge_h = nn.Linear(2 * hidden_size, decoder_layers * hidden_size)
        self.bridge_c = nn.Linear(2 * hidden_size, decoder_layers * hidden_size)
        self.decoder_layers = decoder_layers

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """ids [S, B], lengths [B] to states [S, B, 2H] and the decoder's h, c, each [L, B, H]."""
        states, (h, c) = self.rnn(ids, lengths=lengths)  # [S, B, 2H], [2 * layers, B, H] twice
        last_h = torch.cat([h[-2], h[-1]], dim=-1)  # [B, 2H], where each direction stops
        last_c = torch.cat([c[-2], c[-1]], dim=-1)
        of_h, of_c = self.bridge_h, self.bridge_c
        start = (
            self._by_layer(functional.linear(last_h, of_h.weight, of_h.bias).tanh()),
            self._by_layer(functional.linear(last_c, of_c.weight, of_c.bias)),
        )
        return self.dropout(states), start

    def _by_layer(self, x: Tensor) -> Tensor:
        """[B, L * H] to [L, B, H]."""
        return torch.stack(x.chunk(self.decoder_layers, dim=-1))


class Decoder(nn.Module):
    """An LSTM over the target so far, then attention: the LSTM never waits for the attention.

    So all T steps of teacher forcing are one sequence call, and attention over all of them is two
    batched products.
    """

    def __init__(
        self,
        symbols: int,
        embedding_dim: int,
        hidden_size: int,
        layers: int,
        attention: Attention,
        dropout: float,
    ) -> None:
        super().__init__()
        self.rnn = EmbeddingLSTM(
            symbols,
            embedding_dim,
            hidden_size,
            layers,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.attention = attention
        self.dropout = Dropout(dropout)

    def start(self, h: Tensor, c: Tensor) -> DecoderState:
        """The state before the first symbol, of h, c [L, B, H]."""
        return h, c

    def forward(
        self, ids: Tensor, state: DecoderState, memory: Memory, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """ids [T, K*B], hypothesis k of sentence b in column k*B + b, from `state` onwards.

        Returns attentional vectors [T, K*B, H], weights [B, T*K, S] and the state after them.
        What stands past `lengths` [K*B] costs nothing in the LSTM, and means nothing.
        """
        hidden, state = self.rnn(ids, state, lengths=lengths)  # [T, K*B, H]
        B = memory.mask.shape[0]
        queries = hidden.view(-1, B, hidden.shape[-1])  # [T*K, B, H]
        attentional, weights = self.attention(queries, memory)
        return self.dropout(attentional).view_as(hidden), weights, state


class InputFeedingDecoder(nn.Module):
    """Luong's input feeding: each step's LSTM also reads the attentional vector before it.

    The steps of teacher forcing then wait for each other: a Python loop over cells, which takes
    longer than `Decoder`, the more so at small sizes. Same interface.
    """

    def __init__(
        self,
        symbols: int,
        embedding_dim: int,
        hidden_size: int,
        layers: int,
        attention: Attention,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(symbols, embedding_dim)
        sizes = [embedding_dim + hidden_size] + [hidden_size] * (layers - 1)
        self.cells = nn.ModuleList(LSTMCell(size, hidden_size) for size in sizes)
        self.attention = attention
        self.dropout = Dropout(dropout)

    def start(self, h: Tensor, c: Tensor) -> DecoderState:
        """As `Decoder.start`; the first step is fed zeros."""
        return h, c, torch.zeros_like(h[:1])

    def forward(
        self, ids: Tensor, state: DecoderState, memory: Memory, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """As `Decoder.forward`; `lengths` save nothing here."""
        h, c, fed = list(state[0]), list(state[1]), state[2][0]  # L of [K*B, H] twice, [K*B, H]
        B = memory.mask.shape[0]
        vectors, weights = [], []
        for x in self.embedding(ids):  # [K*B, E]
            below = torch.cat([x, fed], dim=-1)
            for layer, cell in enumerate(self.cells):
                if layer > 0:
                    below = self.dropout(below)
                h[layer], c[layer] = cell(below, (h[layer], c[layer]))
                below = h[layer]
            queries = below.view(-1, B, below.shape[-1])  # [K, B, H]
            attentional, step_weights = self.attention(queries, memory)
            fed = self.dropout(attentional).view_as(below)
            vectors.append(fed)
            weights.append(step_weights)  # [B, K, S]
        state = (torch.stack(h), torch.stack(c), fed.unsqueeze(0))
        return torch.stack(vectors), torch.cat(weights, dim=1), state
