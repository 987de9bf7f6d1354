"""The attention LSTM that other toolkits train, by hand in plain torch: attention inside the loop.

Bahdanau's attention as yoyodyne's `SoftAttentionLSTMModel` has it (additive, from the state before,
the context beside the embedding as the decoder's input), parameter for parameter, so that every
step waits for the one before: packed bidirectional nn.LSTM, then attention and nn.LSTMCell in one
loop under teacher forcing. `twin.Twin` is the same maths as `Seq2Seq`'s default; this is the model
that a user of such a toolkit comes from. Shapes: S source steps, T target steps, B words, E, H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .twin import PAD


class AttentiveTwin(nn.Module):
    """One layer each way; `forward` takes what `Seq2Seq.forward` takes."""

    def __init__(self, sources: int, targets: int, embedding_dim: int = 128, hidden: int = 256):
        super().__init__()
        E, H = embedding_dim, hidden
        self.source_embedding = nn.Embedding(sources, E)
        self.encoder = nn.LSTM(E, H, bidirectional=True)
        self.h0, self.c0 = nn.Parameter(torch.rand(H)), nn.Parameter(torch.rand(H))
        self.target_embedding = nn.Embedding(targets, E)
        self.cell = nn.LSTMCell(E + 2 * H, H)
        self.attention_key = nn.Linear(2 * H, H)
        self.attention_query = nn.Linear(H, H, bias=False)
        self.attention_energy = nn.Linear(H, 1)
        self.output = nn.Linear(H, targets)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """ids [S, B], lengths [B], ids [T + 1, B] to the mean loss per target symbol."""
        packed = pack_padded_sequence(self.source_embedding(source), lengths, enforce_sorted=False)
        states = pad_packed_sequence(self.encoder(packed)[0], batch_first=True)[0]  # [B, S, 2H]
        keys = self.attention_key(states)  # [B, S, H], once for all steps
        padding = (source == PAD).t()  # [B, S]
        B = source.shape[1]
        h, c = self.h0.expand(B, -1), self.c0.expand(B, -1)
        hidden = []
        for x in self.target_embedding(target[:-1]):  # [B, E], T times
            energies = torch.tanh(keys + self.attention_query(h).unsqueeze(1))
            scores = self.attention_energy(energies).squeeze(2)
            weights = scores.masked_fill(padding, float("-inf")).softmax(-1)
            context = torch.bmm(weights.unsqueeze(1), states).squeeze(1)  # [B, 2H]
            h, c = self.cell(torch.cat([x, context], dim=-1), (h, c))
            hidden.append(h)
        logits = self.output(torch.stack(hidden)).flatten(0, 1)
        return F.cross_entropy(logits, target[1:].flatten(), ignore_index=PAD)
