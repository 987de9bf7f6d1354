"""A character language model of any text, trained in chunks with the state carried over.

python examples/char_lm.py shakespeare.txt
python examples/char_lm.py            # on the manual that every Python carries
"""

import argparse
import math
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

from fastchar import CharLM, Vocabulary

STREAMS, CHUNK = 32, 64  # B texts side by side, T steps of back-propagation


def main(path: str = "", steps: int = 500, **options: Any) -> float:
    """Train, print a sample, and return the last chunk's loss in bits a character."""
    torch.manual_seed(0)
    text = Path(path).read_text("utf-8") if path else "\n".join(topics.values())
    vocabulary = Vocabulary.build([text])
    model = CharLM(vocabulary, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    ids = torch.tensor(vocabulary.encode(text))
    length = (len(ids) - 1) // STREAMS  # of each stream
    inputs = ids[: length * STREAMS].view(STREAMS, length).t().contiguous()  # [length, B]
    targets = ids[1 : length * STREAMS + 1].view(STREAMS, length).t().contiguous()

    step, bits = 0, math.inf
    while step < steps:
        state = None  # at the start of the text
        for inputs_t, targets_t in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
            loss, state = model(inputs_t, targets_t, state)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, bits = step + 1, loss.item() / math.log(2)
            if step % 100 == 0:
                print(f"step {step}: {bits:.2f} bits a character")
            if step == steps:
                break
    for piece in model.stream("The ", length=200, temperature=0.8, seed=0):
        print(piece, end="", flush=True)
    print()
    return bits


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", nargs="?", default="")
    parser.add_argument("--steps", type=int, default=500)
    main(**vars(parser.parse_args()))
