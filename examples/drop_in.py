"""fastchar in a training loop of one's own: is this word written backwards?

The usual classifier, nn.Embedding then nn.LSTM over packed sequences, needs two changes to be fast:
one module for the two, and `lengths` in place of the packing. A model that somebody else wrote
needs none: `fastchar.accelerate(model)` swaps its modules, parameters and all.

    python examples/drop_in.py
"""

import argparse
import random
import re
from pydoc_data.topics import topics  # half a megabyte of English that every Python carries

import torch
from torch import nn

import fastchar
from fastchar.text import pad


class Classifier(nn.Module):
    def __init__(self, symbols: int) -> None:
        super().__init__()
        # was: self.embedding, self.lstm = nn.Embedding(symbols, 32), nn.LSTM(32, 64)
        self.rnn = fastchar.EmbeddingLSTM(symbols, 32, 64)
        self.output = nn.Linear(64, 2)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        # was: pack_padded_sequence(self.embedding(ids), lengths, enforce_sorted=False) and so on
        _, (h, _) = self.rnn(ids, lengths=lengths)  # h [1, B, 64], where each word ends
        return self.output(h[-1])  # [B, 2]


class PlainClassifier(nn.Module):
    """The same as others write it, without lengths; see the end of `main`."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(symbols, 32), nn.LSTM(32, 64)
        self.output = nn.Linear(64, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.output(self.lstm(self.embedding(ids))[1][0][-1])


def main(steps: int = 400) -> float:
    """Train, and return the share of unseen words judged rightly."""
    torch.manual_seed(0)
    words = sorted(set(re.findall("[a-z]{4,}", " ".join(topics.values()))))
    draw = random.Random(0)
    draw.shuffle(words)
    seen, unseen = words[500:], words[:500]
    vocabulary = fastchar.Vocabulary.build(words)
    model = Classifier(len(vocabulary))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def batch(chosen: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        backwards = torch.randint(2, (len(chosen),))
        texts = [w[::-1] if b else w for w, b in zip(chosen, backwards, strict=True)]
        return *pad([vocabulary.encode(t) for t in texts]), backwards

    for step in range(1, steps + 1):
        ids, lengths, backwards = batch(draw.sample(seen, 128))
        loss = nn.functional.cross_entropy(model(ids, lengths), backwards)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    ids, lengths, backwards = batch(unseen)
    right = (model(ids, lengths).argmax(-1) == backwards).float().mean().item()
    print(f"right on {100 * right:.1f} % of {len(unseen)} unseen words")
    print(fastchar.accelerate(PlainClassifier(len(vocabulary))))
    return right


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    main(parser.parse_args().steps)
