"""Beam search with any beam finds what the same search, written to be read, finds."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fastchar.decoding import beam_search
from fastchar.models import Seq2Seq
from fastchar.text import Vocabulary

EOS = Vocabulary.eos_id
V = 7  # symbols, of which 4, 5 and 6 are no special ones


class Tables(NamedTuple):
    """What a decoder reads of B sentences here: log-probabilities [B, V, V] of each next symbol."""

    following: Tensor

    def select(self, sentences: Tensor) -> Tables:
        return Tables(self.following[sentences])


def step(last: Tensor, state: tuple[Tensor, ...], memory: Tables) -> tuple[Tensor, tuple[Tensor]]:
    """The tables' own, the sharper the more symbols a hypothesis has, which is its state."""
    (count,) = state
    B = len(memory.following)
    sentence = torch.arange(B).repeat(len(last) // B)  # of column k*B + b
    scores = memory.following[sentence, last] * (1 + 0.2 * count[0])
    return scores.log_softmax(-1), (count + 1,)


def plainly(
    following: Tensor, limit: int, beam: int, n_best: int, penalty: float
) -> list[tuple[float, list[int]]]:
    """One sentence to the end, with no thought of when more patience would change nothing."""
    living: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for t in range(limit + 1):
        candidates = []
        for log_prob, ids in living:
            last = torch.tensor([ids[-1] if ids else Vocabulary.bos_id])
            count = torch.full((1, 1, 1), float(t), dtype=torch.float64)
            scores = step(last, (count,), Tables(following[None]))[0][0].tolist()
            allowed = [EOS] if t == limit else [EOS, 4, 5, 6]
            candidates += [(log_prob + scores[symbol], [*ids, symbol]) for symbol in allowed]
        candidates.sort(reverse=True)
        ended += [(p / len(ids) ** penalty, ids) for p, ids in candidates[:beam] if ids[-1] == EOS]
        living = [(p, ids) for p, ids in candidates if ids[-1] != EOS][:beam]
    return sorted(ended, reverse=True)[:n_best]


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
@pytest.mark.parametrize(("beam", "n_best"), [(1, 1), (2, 1), (3, 3), (4, 2)])
def test_any_beam(beam: int, n_best: int, penalty: float) -> None:
    """Those that end are the <eos> among the K best continuations, no more and no fewer, and
    stopping early loses none; of sentences that end at different steps, each with its own limit."""
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        following = torch.randn(9, V, V, generator=generator, dtype=torch.float64)
        limits = torch.randint(0, 7, (9,), generator=generator)
        count = torch.zeros(1, 9, 1, dtype=torch.float64)
        found = beam_search(
            step,
            (count,),
            Tables(following),
            limits,
            beam=beam,
            n_best=n_best,
            length_penalty=penalty,
        )
        for table, limit, each in zip(following, limits.tolist(), found, strict=True):
            expected = plainly(table, limit, beam, n_best, penalty)
            assert [[*f.ids, EOS] for f in each] == [ids for _, ids in expected]
            assert [f.score for f in each] == pytest.approx([score for score, _ in expected])
            log_probs = [f.score * (len(f.ids) + 1) ** penalty for f in each]
            assert [f.log_prob for f in each] == pytest.approx(log_probs)


def test_a_longer_target_is_waited_for() -> None:
    """It may be the best in the end, by the mean over its symbols, where its beginning is worse
    than all of another one: of a living hypothesis, the most that its limit lets it be counts."""
    following = torch.full((V, V), 1e-3, dtype=torch.float64)
    following[Vocabulary.bos_id, [EOS, 4]] = torch.tensor([0.6, 0.3], dtype=torch.float64)
    following[[4, 5, 6], [5, 6, EOS]] = 0.99
    for beam in (1, 2):
        ((best,),) = beam_search(
            step,
            (torch.zeros(1, 1, 1, dtype=torch.float64),),
            Tables(following.log()[None]),
            torch.tensor([5]),
            beam=beam,
            length_penalty=1.0,
        )
        assert best.ids == [4, 5, 6]


def test_greedy_hypotheses_have_the_same_score() -> None:
    """log_prob / length ** length_penalty, <eos> counted, with beam 1 as with any other."""
    letters = Vocabulary("abc")
    model = Seq2Seq(letters, letters, embedding_dim=4, hidden_size=4)
    with torch.no_grad():
        model.output.bias[EOS] = -100.0  # as many symbols as may be
    for beam in (1, 2):
        ((best,),) = model.predict(["ab"], beam=beam, max_length=5, length_penalty=0.5)
        assert best.score == pytest.approx(best.log_prob / 6**0.5)
