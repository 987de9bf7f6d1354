"""The attention LSTM as one writes it by hand in plain torch: what `fastchar.Seq2Seq` is timed by.

Packed bidirectional nn.LSTM, nn.LSTMCell in a loop under teacher forcing, Luong's global attention
("general") as his paper writes it, for all steps at once after the loop, F.cross_entropy. The
parameters and the loss are those of `Seq2Seq`'s defaults. Shapes: S source steps, T target steps,
B words, E, H.
"""

import random
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PAD = 0
CLIP = 1.0
Pair = tuple[Tensor, Tensor]  # ids of a source with <eos>; of a target with <bos> and <eos>

# Prefixes of `Seq2Seq`'s parameters, and of those of the twin that are the same.
_RENAMED = {
    "encoder.rnn.embedding.": "source_embedding.",
    "encoder.rnn.lstm.": "encoder.",
    "encoder.bridge_": "bridge_",
    "decoder.rnn.embedding.": "target_embedding.",
    "decoder.rnn.lstm.": "cell.",
    "output.": "output.",
}
_ATTENTION = "decoder.attention."


class Twin(nn.Module):
    """One layer each way; `forward` takes what `Seq2Seq.forward` takes."""

    def __init__(self, sources: int, targets: int, embedding_dim: int = 128, hidden: int = 256):
        super().__init__()
        E, H = embedding_dim, hidden
        self.source_embedding = nn.Embedding(sources, E)
        self.encoder = nn.LSTM(E, H, bidirectional=True)
        self.bridge_h, self.bridge_c = nn.Linear(2 * H, H), nn.Linear(2 * H, H)
        self.target_embedding = nn.Embedding(targets, E)
        self.cell = nn.LSTMCell(E, H)
        self.attention_key = nn.Linear(2 * H, H, bias=False)
        self.attention_combine = nn.Linear(3 * H, H)
        self.output = nn.Linear(H, targets)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """ids [S, B], lengths [B], ids [T + 1, B] to the mean loss per target symbol."""
        packed = pack_padded_sequence(self.source_embedding(source), lengths, enforce_sorted=False)
        packed, (h, c) = self.encoder(packed)
        states = pad_packed_sequence(packed)[0]  # [S, B, 2H]
        state = (
            self.bridge_h(torch.cat([h[0], h[1]], dim=-1)).tanh(),
            self.bridge_c(torch.cat([c[0], c[1]], dim=-1)),
        )

        hidden = []
        for x in self.target_embedding(target[:-1]):  # [B, E], T times
            state = self.cell(x, state)
            hidden.append(state[0])
        queries = torch.stack(hidden, dim=1)  # [B, T, H]

        states = states.transpose(0, 1)  # [B, S, 2H]
        keys = self.attention_key(states)  # [B, S, H]
        padding = (source == PAD).t().unsqueeze(1)  # [B, 1, S]
        scores = torch.bmm(queries, keys.transpose(1, 2)).masked_fill(padding, float("-inf"))
        context = torch.bmm(scores.softmax(-1), states)  # [B, T, 2H]
        vectors = torch.tanh(self.attention_combine(torch.cat([context, queries], dim=-1)))
        logits = self.output(vectors).flatten(0, 1)
        return F.cross_entropy(logits, target[1:].t().flatten(), ignore_index=PAD)

    def load_seq2seq(self, state: dict[str, Tensor]) -> None:
        """Takes over every parameter of a default `Seq2Seq`'s state_dict, strictly."""
        self.load_state_dict(from_seq2seq(state))


def from_seq2seq(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`Seq2Seq`'s parameters, or their gradients, by name: as the twin names and lays them out.

    Where the twin combines [context; query] by one matrix [H, 3H], `Seq2Seq` has its two parts,
    and the context's part stands below the keys' matrix.
    """
    keys, context = tensors[_ATTENTION + "states.weight"].chunk(2)
    query = tensors[_ATTENTION + "query.weight"]
    found = {
        "attention_key.weight": keys,
        "attention_combine.weight": torch.cat([context, query], dim=1),
        "attention_combine.bias": tensors[_ATTENTION + "query.bias"],
    }
    for name, tensor in tensors.items():
        if name.startswith(_ATTENTION):
            continue
        theirs = next(prefix for prefix in _RENAMED if name.startswith(prefix))
        renamed = _RENAMED[theirs] + name.removeprefix(theirs)
        found[renamed.removesuffix("_l0") if theirs == "decoder.rnn.lstm." else renamed] = tensor
    return found


def batches(pairs: Sequence[Pair], size: int) -> list[list[int]]:
    """An epoch as lists of `size` indices alike in length, in random order, the same each time."""
    order = list(range(len(pairs)))
    shuffle = random.Random(0).shuffle
    shuffle(order)
    order.sort(key=lambda i: (len(pairs[i][0]), len(pairs[i][1])))
    cut = [order[start : start + size] for start in range(0, len(order), size)]
    shuffle(cut)
    return cut


def collate(pairs: Iterable[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Source ids [S, B], their lengths [B], target ids [T + 1, B], padded."""
    sources, targets = map(list, zip(*pairs, strict=True))
    lengths = torch.tensor([len(source) for source in sources])
    return pad_sequence(sources, padding_value=PAD), lengths, pad_sequence(targets)


def update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Clips the gradient's norm to CLIP and takes the optimizer's step."""
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Sequence[Pair],
    epoch: Iterable[Sequence[int]],
) -> None:
    """One pass over the batches of `epoch`, each a sequence of indices into `pairs`."""
    for batch in epoch:
        source, lengths, target = collate(pairs[i] for i in batch)
        optimizer.zero_grad(set_to_none=True)
        model(source, lengths, target).backward()
        update(model, optimizer)
