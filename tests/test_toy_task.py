"""The whole thing learns: a model that reverses strings it has never seen."""

import random

import pytest
import torch

from fastchar.models import Seq2Seq
from fastchar.text import Vocabulary, pad


@pytest.mark.usefixtures("one_thread")
def test_learns_to_reverse_strings() -> None:
    """After a few seconds of training, 100 % of unseen strings come out reversed."""
    torch.manual_seed(0)
    draw = random.Random(0)
    letters = Vocabulary("abcdefgh")

    def words(n: int) -> list[str]:
        return ["".join(draw.choices("abcdefgh", k=draw.randint(1, 8))) for _ in range(n)]

    unseen = set(words(200))
    model = Seq2Seq(letters, letters, embedding_dim=32, hidden_size=64)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=150)
    for _ in range(150):
        sources = [w for w in words(64) if w not in unseen]
        ids, lengths = pad([letters.encode(w, eos=True) for w in sources])
        targets, _ = pad([letters.encode(w[::-1], bos=True, eos=True) for w in sources])
        loss = model(ids, lengths, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
    for beam in (1, 3):
        predictions = model.predict(sorted(unseen), beam=beam)
        assert [p[0].text for p in predictions] == [w[::-1] for w in sorted(unseen)]
