"""Grapheme to phoneme from a TSV file, a pair a line (`hello<TAB>HH AH L OW`), in plain Python.

`fastchar train` does all this and more; this is what it comes down to.

    python examples/g2p.py pairs.tsv --epochs 5 --save model/
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastchar import Seq2Seq, Vocabulary
from fastchar.text import pad

Pair = tuple[str, str]


def batches(pairs: list[Pair], size: int) -> Iterator[list[Pair]]:
    """Random batches of pairs of about the same length."""
    pairs = random.sample(pairs, len(pairs))
    for start in range(0, len(pairs), 50 * size):
        chunk = sorted(pairs[start : start + 50 * size], key=lambda p: (len(p[0]), len(p[1])))
        cut = [chunk[i : i + size] for i in range(0, len(chunk), size)]
        yield from random.sample(cut, len(cut))


def main(path: str, epochs: int = 5, batch: int = 128, save: str = "", **options: Any) -> float:
    """Train, and return the share of held-out words whose prediction is wrong."""
    torch.manual_seed(0)
    random.seed(0)
    lines = Path(path).read_text("utf-8").splitlines()
    pairs: list[Pair] = [(s, t) for s, t in (line.split("\t") for line in lines)]
    words = sorted({word for word, _ in pairs})
    held_out = set(random.sample(words, min(500, len(words) // 10)))
    references: dict[str, set[str]] = {word: set() for word in held_out}
    for word, phones in pairs:
        if word in held_out:
            references[word].add(phones)
    train = [p for p in pairs if p[0] not in held_out]
    source = Vocabulary.build(s for s, _ in train)
    target = Vocabulary.build((t for _, t in train), mode="separated")
    model = Seq2Seq(source, target, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    error = 1.0
    for epoch in range(1, epochs + 1):
        for chosen in batches(train, batch):
            ids, lengths = pad([source.encode(s, eos=True) for s, _ in chosen])
            targets, _ = pad([target.encode(t, bos=True, eos=True) for _, t in chosen])
            loss = model(ids, lengths, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        asked = sorted(held_out)
        found = model.predict(asked)
        wrong = sum(f[0].text not in references[w] for w, f in zip(asked, found, strict=True))
        error = wrong / len(asked)
        print(f"epoch {epoch}: loss {loss.item():.3f}, {100 * error:.1f} % of words wrong")
    for hypothesis in model.predict([asked[0]], beam=5, n_best=3)[0]:
        print(f"{asked[0]}  {hypothesis.text}  (log-probability {hypothesis.log_prob:.2f})")
    if save:
        model.save_pretrained(save)
    return error


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--save", default="", help="folder for the trained model")
    main(**vars(parser.parse_args()))
