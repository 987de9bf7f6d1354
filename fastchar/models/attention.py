"""Global attention of a decoder over an encoder's states (Luong 2015, Bahdanau 2015).

Shapes: S source steps, B sentences, M memory size, H hidden size. Queries come as [Q, B, H]: any
number Q of queries a sentence, which are the T steps of teacher forcing, the K hypotheses of a
beam, or both. The source is never repeated for them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from fastchar import functional

Score = Literal["dot", "general", "additive"]


class Memory(NamedTuple):
    """What a decoder reads of the source, made once a batch by `Attention.memory`."""

    keys: Tensor  # [S, B, H], what queries are compared with
    values: Tensor  # [S, B, H], the states as the attentional vector takes them
    mask: Tensor  # [B, 1, S], 0 at real positions, the most negative number in the padding

    def select(self, sentences: Tensor) -> Memory:
        """The memory of some of the B sentences, by index [B']."""
        return Memory(
            self.keys.index_select(1, sentences),
            self.values.index_select(1, sentences),
            self.mask.index_select(0, sentences),
        )


class Attention(nn.Module):
    """Luong's global attention and attentional vector.

        weights     = softmax over s of score(query, state[s])
        context     = sum over s of weights[s] * state[s]
        attentional = tanh(W_c [context; query] + b)

    Scores: `"general"` query . W state; `"additive"` v . tanh(U query + W state); `"dot"`
    query . W_m state, W_m being the context's half of W_c, which brings states to the query's size.

    W_c [context; query] = sum of weights[s] * (W_m state[s]) + W_q query, so that W_m is applied
    to the S states once, together with W, and not to the context of every query: less work, and
    none per step of a search.
    """

    def __init__(self, memory_size: int, hidden_size: int, score: Score) -> None:
        super().__init__()
        if score not in get_args(Score):
            raise ValueError(f"attention: expected one of {get_args(Score)}, got {score!r}")
        self.score = score
        rows = hidden_size if score == "dot" else 2 * hidden_size
        self.states = nn.Linear(memory_size, rows, bias=False)  # W_m, and above it W
        self.query = nn.Linear(hidden_size, hidden_size)  # W_q, b
        if score == "additive":
            self.query_key = nn.Linear(hidden_size, hidden_size)  # U
            self.energy = nn.Linear(hidden_size, 1, bias=False)  # v

    def memory(self, states: Tensor, lengths: Tensor) -> Memory:
        """Encoder states [S, B, M] and their lengths [B] to what queries need of them."""
        projected = functional.linear(states, self.states.weight)  # [S, B, H or 2H]
        # Not slices: the gradient of each would be a tensor of zeros as large as both.
        keys, values = (projected, projected) if self.score == "dot" else projected.chunk(2, dim=-1)
        steps = torch.arange(states.shape[0], device=states.device)
        padding = steps >= lengths.to(states.device).unsqueeze(1)  # [B, S]
        # Not -inf: a sentence without symbols would make NaN of the whole batch's loss.
        lowest = torch.finfo(states.dtype).min
        mask = states.new_zeros(padding.shape).masked_fill(padding, lowest)
        return Memory(keys, values, mask.unsqueeze(1))

    def _query(self, queries: Tensor) -> Tensor:
        return functional.linear(queries, self.query.weight, self.query.bias)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Queries [Q, B, H] to attentional vectors [Q, B, H] and weights [B, Q, S].

        Weights sum to 1 over the real source steps and are exactly 0 in the padding.
        """
        # The batch of a batched product comes first; these are views, which it reads as they are.
        query = queries.transpose(0, 1)  # [B, Q, H]
        keys, values = memory.keys.transpose(0, 1), memory.values.transpose(0, 1)  # [B, S, H]
        if self.score == "additive":
            sums = self.query_key(query).unsqueeze(2) + keys.unsqueeze(1)  # [B, Q, S, H]
            scores = self.energy(sums.tanh()).squeeze(3) + memory.mask
        else:
            scores = torch.baddbmm(memory.mask, query, keys.transpose(1, 2))
        weights = scores.softmax(-1)  # [B, Q, S]
        context = torch.bmm(weights, values).transpose(0, 1)  # W_m context: [Q, B, H]
        return torch.tanh(self._query(queries) + context), weights
