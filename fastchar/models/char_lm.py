"""A distribution over the next symbol of a text, and texts drawn from it.

Shapes: T steps, B streams, V symbols, E embedding, H hidden, L layers. Time-major, [T, B, ...].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastchar import functional
from fastchar.decoding import check_sampling, drawn, inference, sample
from fastchar.models.dropout import Dropout
from fastchar.models.pretrained import Pretrained, check_vocabulary
from fastchar.nn import EmbeddingLSTM
from fastchar.nn.embedding_lstm import is_as_made
from fastchar.text import Vocabulary

State = tuple[Tensor, Tensor]  # h, c, each [L, B, H]

NEVER = [Vocabulary.pad_id, Vocabulary.bos_id, Vocabulary.unk_id]  # drawn
# Symbols drawn in one call, at first and after a while: a reader waits for the first ones, and what
# each call does besides should be little beside the rest.
FIRST, MOST = 16, 256


class CharLM(Pretrained):
    """Embedding, LSTM layers, and a linear layer over the next symbol.

    Args:
        vocabulary: kept with the model.
        embedding_dim, hidden_size, num_layers: E, H, L.
        dropout: probability, between the layers and before the output.
        tie_embeddings: the output layer's weight is the embedding's (Press & Wolf 2017). If E and H
            differ, a linear layer brings the hidden state to E first.
    """

    model_name = "char_lm"
    vocabulary_names = ("vocabulary",)

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        embedding_dim: int = 128,
        hidden_size: int = 512,
        num_layers: int = 1,
        dropout: float = 0.0,
        tie_embeddings: bool = False,
    ) -> None:
        super().__init__()
        check_vocabulary("vocabulary", vocabulary)
        self.vocabulary = vocabulary
        self.config: dict[str, Any] = {
            "embedding_dim": embedding_dim,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "dropout": dropout,
            "tie_embeddings": tie_embeddings,
        }
        V, E, H = len(vocabulary), embedding_dim, hidden_size
        self.rnn = EmbeddingLSTM(V, E, H, num_layers, dropout=dropout if num_layers > 1 else 0.0)
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(H, E, bias=False) if tie_embeddings and E != H else nn.Identity()
        self.output = nn.Linear(E if tie_embeddings else H, V)
        if tie_embeddings:
            self.output.weight = self.rnn.embedding.weight  # one parameter under two names

    def forward(
        self, ids: Tensor, targets: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """The mean loss in nats per target, and the state after the last step.

        ids, targets int64 [T, B], targets[t] being what follows ids[t]; <pad> in targets does not
        count. `state` is that of the chunk before, or None at the start of a text. The state that
        comes back is cut from the graph: back-propagation goes no further than the chunk.
        """
        hidden, state = self._hidden(ids, state)
        loss = functional.linear_cross_entropy(
            hidden.flatten(0, 1),
            self.output.weight,
            targets.flatten(),
            linear_bias=self.output.bias,
            ignore_index=Vocabulary.pad_id,
        )
        return loss, (state[0].detach(), state[1].detach())

    def logits(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """ids [T, B] to the logits [T, B, V] of what follows each, and the state after them."""
        hidden, state = self._hidden(ids, state)
        return self.output(hidden), state

    def _hidden(self, ids: Tensor, state: State | None) -> tuple[Tensor, State]:
        output, state = self.rnn(ids, state)  # [T, B, H]
        return self.project(self.dropout(output)), state

    def generate(self, prompt: str = "", **options: Any) -> str:
        """The text that `stream` gives with the same options, in one piece."""
        return "".join(self.stream(prompt, **options))

    def stream(
        self,
        prompt: str = "",
        *,
        length: int = 500,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | None = None,
    ) -> Iterator[str]:
        """A continuation of `prompt`, without the prompt itself, piece by piece as it is drawn.

        At most `length` symbols; it ends early at <eos>, or before `stop` if the text comes to it.
        `temperature`, `top_k` and `top_p` as in `fastchar.decoding.sample`; the same `seed` draws
        the same text. <pad>, <bos> and <unk> are never drawn. Raises `ValueError` for an option
        that makes no sense.
        """
        check_sampling(temperature, top_k, top_p)
        if length < 0:
            raise ValueError(f"length: expected 0 or more, got {length}")
        if stop == "":
            raise ValueError("stop: expected text or None, got ''")
        if seed is not None and not -(2**63) <= seed < 2**64:
            raise ValueError(f"seed: expected a number of 64 bits, got {seed}")
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        symbols = self._draw(
            self.vocabulary.encode(prompt, bos=True), length, temperature, top_k, top_p, generator
        )
        pieces = self.vocabulary.decode_stream(symbols, after=prompt)
        return pieces if stop is None else _before(stop, pieces)

    def _draw(
        self,
        ids: list[int],
        length: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        generator: torch.Generator,
    ) -> Iterator[int]:
        """Symbols that follow `ids`, until <eos>: by one call for many where nothing but the
        parameters says how, else by the modules, one symbol a call."""
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        if self._is_as_made():
            return self._draw_many(ids, length, generator, options)
        return self._draw_each(ids, length, generator, options)

    def _is_as_made(self) -> bool:
        """Whether the modules are those of `__init__`, without hooks, on the CPU, and no autocast
        wants them in another dtype."""
        rnn, project = self.rnn, self.project
        return (
            is_as_made(rnn, EmbeddingLSTM)
            and rnn.folds()
            and len(rnn.lstm._weights()) == 4 * rnn.lstm.num_layers
            and is_as_made(self.dropout, Dropout)
            and is_as_made(project, nn.Linear if isinstance(project, nn.Linear) else nn.Identity)
            and is_as_made(self.output, nn.Linear)
            and self.output.bias is not None
            and self.output.weight.is_cpu
            and not torch.is_autocast_enabled("cpu")
        )

    def _draw_many(
        self, ids: list[int], length: int, generator: torch.Generator, options: dict[str, Any]
    ) -> Iterator[int]:
        last = ids[-1]
        with inference(self):
            h, c = self._state_after(ids[:-1])
        at_once = FIRST
        while length > 0:
            count = min(length, at_once)
            draws = torch.rand(count, dtype=torch.float64, device="cpu", generator=generator)
            # Entered for each call, so that what the caller does between them is not touched.
            with inference(self):
                weight, bias = self.output.weight, self.output.bias.clone()
                bias[NEVER] = -math.inf
                if isinstance(self.project, nn.Linear):
                    weight = weight @ self.project.weight
                table, weights = self.rnn.embedding.weight, self.rnn.lstm._weights()
                written, h, c = functional.lstm_generate(
                    *(last, table, weights, weight, bias, h, c, draws),
                    **options,
                    end=Vocabulary.eos_id,
                )
            for last in drawn(written).tolist():
                yield last
            length -= len(draws)
            at_once = min(2 * at_once, MOST)

    def _state_after(self, ids: list[int]) -> State:
        """h, c [L, H] of a text."""
        if ids:
            _, (h, c) = self.rnn(torch.tensor(ids, device="cpu"))
            return h, c
        lstm = self.rnn.lstm
        zeros = self.output.weight.new_zeros(lstm.num_layers, lstm.hidden_size)
        return zeros, zeros

    def _draw_each(
        self, ids: list[int], length: int, generator: torch.Generator, options: dict[str, Any]
    ) -> Iterator[int]:
        state: State | None = None
        device = next(self.parameters()).device
        for _ in range(length):
            with inference(self):
                chunk = torch.tensor(ids, device=device).unsqueeze(1)
                hidden, state = self._hidden(chunk, state)
                last = self.output(hidden[-1])
                last[:, NEVER] = -math.inf
            ids = sample(last, generator=generator, **options).tolist()
            yield ids[0]


def _before(stop: str, pieces: Iterator[str]) -> Iterator[str]:
    """The pieces up to where `stop` begins; what may yet become `stop` is held back."""
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held[: held.index(stop)]
            return
        ready = max(0, len(held) - len(stop) + 1)
        yield held[:ready]
        held = held[ready:]
    yield held
