"""Greedy and beam search for the most probable target of a source, a batch at a time.

Shapes: B sentences, K hypotheses a sentence, V symbols, L layers. The decoder sees hypothesis k of
sentence b in column k*B + b, so that one source serves its K hypotheses without being repeated.

Every result is a whole string: a sentence that reaches its limit of symbols gets <eos> there, and
the log-probability of that counts. <pad>, <bos> and <unk> are never chosen; log-probabilities are
those of the full softmax all the same, as a teacher-forced rescoring gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastchar.text import Vocabulary

EOS = Vocabulary.eos_id
NEVER = [Vocabulary.pad_id, Vocabulary.bos_id, Vocabulary.unk_id]

# Columns whose sentence is finished are dropped once they are a quarter of all: often enough to
# save work, seldom enough that copying the rest costs less than three copies in a whole search.
KEEP = 0.75

State = tuple[Tensor, ...]  # each [*, columns, *]: columns are dimension 1


class Memory(Protocol):
    """What a step reads of B sentences."""

    def select(self: _M, sentences: Tensor) -> _M:
        """That of some of them, by index [B']."""


_M = TypeVar("_M", bound=Memory)

# (last symbols [K*B], state, memory of B sentences) -> (log-probabilities [K*B, V], state)
Step = Callable[[Tensor, State, _M], tuple[Tensor, State]]


class Found(NamedTuple):
    """A target without <bos> and <eos>, its log-probability in nats (with <eos>), and its score."""

    ids: list[int]
    log_prob: float
    score: float


def greedy_search(
    step: Step[_M], state: State, memory: _M, limits: Tensor
) -> tuple[list[list[int]], Tensor]:
    """The most probable symbol at every step. `limits` int64 [B]: most symbols of each sentence.

    Returns B id lists and log-probabilities [B], float64 on the CPU.
    """
    B, longest = limits.numel(), int(limits.max()) if limits.numel() else 0
    ids = []  # of each step, so that a limit never reached takes no memory
    log_prob = torch.zeros(B, dtype=torch.float64, device=limits.device)
    sentence = torch.arange(B, device=limits.device)  # of each column
    last = limits.new_full((B,), Vocabulary.bos_id)
    done = torch.zeros(B, dtype=torch.bool, device=limits.device)
    allowed = _Allowed(limits)
    for t in range(longest + 1):
        scores, state = step(last, state, memory)  # [B', V]
        best, last = allowed(scores, t, limits).max(-1)
        last = last.masked_fill(done, EOS)
        ids.append(limits.new_full((B,), EOS).index_copy_(0, sentence, last))
        log_prob[sentence] += best.double().masked_fill(done, 0)
        done = last == EOS
        running = (~done).nonzero().squeeze(1)
        if running.numel() == 0:
            break
        if running.numel() <= KEEP * done.numel():
            sentence, limits, last, done = (x[running] for x in (sentence, limits, last, done))
            state = tuple(s.index_select(1, running) for s in state)
            memory = memory.select(running)
    return [_until_eos(column) for column in torch.stack(ids, 1).tolist()], log_prob.cpu()


def beam_search(
    step: Step[_M],
    state: State,
    memory: _M,
    limits: Tensor,
    *,
    beam: int,
    n_best: int = 1,
    length_penalty: float = 0.0,
) -> list[list[Found]]:
    """The `n_best` best-scoring targets of each sentence, best first, that a beam of K finds.

    A hypothesis ends where <eos> is among the K best continuations of its sentence. A sentence is
    done when no living hypothesis can beat the n-th best ended one, were all to come certain: so
    more patience would change nothing. Fewer than n come back where fewer exist.
    """
    if not 1 <= n_best <= beam:
        raise ValueError(f"n_best: expected 1 to beam ({beam}), got {n_best}")
    if length_penalty < 0:
        raise ValueError(f"length_penalty: expected 0 or more, got {length_penalty}")
    K, B, longest = beam, limits.numel(), int(limits.max()) if limits.numel() else 0
    found: list[list[Found]] = [[] for _ in range(B)]
    sentence = torch.arange(B, device=limits.device)  # of each row below
    # All start alike, so that only the first hypothesis counts.
    live = torch.full((B, K), float("-inf"), dtype=torch.float64, device=limits.device)
    live[:, :1] = 0
    last = limits.new_full((B, K), Vocabulary.bos_id)
    past = limits.new_empty(B, K, 0)  # symbols of the living
    ended = _Ended(
        live.new_full((B, n_best), float("-inf")),
        live.new_full((B, n_best), float("-inf")),
        limits.new_full((B, n_best, 1), EOS),
    )
    state = tuple(s.repeat(1, K, 1) for s in state)  # column k*B + b
    allowed = _Allowed(limits)
    for t in range(longest + 1):
        B = sentence.numel()
        scores, state = step(last.t().flatten(), state, memory)  # [K*B, V]
        V = scores.shape[1]
        candidates = allowed(scores.view(K, B, V), t, limits).transpose(0, 1).double()
        candidates = (live.unsqueeze(2) + candidates).flatten(1)  # [B, K*V]
        # At most K of 2K end, so that K remain to live on.
        best, index = candidates.topk(min(2 * K, K * V))
        parent, symbol = index // V, index % V
        ends = (symbol == EOS) & best.isfinite()
        if ends[:, :K].any():
            log_prob = best.masked_fill(~ends, float("-inf"))[:, :K]
            ended = ended.merge(log_prob, _rows(past, parent[:, :K]), length_penalty)
        live, rank = best.masked_fill(ends, float("-inf")).topk(K)
        parent, last = parent.gather(1, rank), symbol.gather(1, rank)
        past = torch.cat([_rows(past, parent), last.unsqueeze(2)], dim=2)
        bound = live[:, 0] / (limits + 1) ** length_penalty
        done = ended.score[:, -1] >= bound
        rows = torch.arange(B, device=limits.device)  # that go on
        if B - int(done.sum()) <= KEEP * B:
            for row in rows[done].tolist():
                found[int(sentence[row])] = ended.of(row)
            rows = rows[~done]
            if rows.numel() == 0:
                break
            sentence, limits, live = sentence[rows], limits[rows], live[rows]
            last, past, parent = last[rows], past[rows], parent[rows]
            ended = _Ended(*(x[rows] for x in ended))
            memory = memory.select(rows)
        column = (parent * B + rows.unsqueeze(1)).t().flatten()
        state = tuple(s.index_select(1, column) for s in state)
    return found


class _Ended(NamedTuple):
    """The n best ended hypotheses of each sentence, best first; -inf where there are fewer."""

    score: Tensor  # [B, n]
    log_prob: Tensor  # [B, n]
    ids: Tensor  # [B, n, T], <eos> from the end on; T no more than the last to end needs

    def merge(self, log_prob: Tensor, past: Tensor, length_penalty: float) -> _Ended:
        """With those that end now: log_prob [B, K], -inf for none, after symbols past [B, K, t]."""
        T = past.shape[2] + 1  # <eos> counts
        score = log_prob / T**length_penalty
        before, now = (F.pad(x, (0, T - x.shape[2]), value=EOS) for x in (self.ids, past))
        score, best = torch.cat([self.score, score], dim=1).topk(self.score.shape[1])
        log_prob = torch.cat([self.log_prob, log_prob], dim=1).gather(1, best)
        return _Ended(score, log_prob, _rows(torch.cat([before, now], dim=1), best))

    def of(self, row: int) -> list[Found]:
        """The hypotheses of one sentence."""
        every = zip(
            self.ids[row].tolist(),
            self.log_prob[row].tolist(),
            self.score[row].tolist(),
            strict=True,
        )
        return [Found(_until_eos(i), p, s) for i, p, s in every if s > float("-inf")]


class _Allowed:
    """Keeps from coming what may not come next, in a search with these limits [B] or some of
    them."""

    def __init__(self, limits: Tensor) -> None:
        self.shortest = int(limits.min()) if limits.numel() else 0
        self.never: Tensor | None = None  # [V], -inf at what is never chosen

    def __call__(self, scores: Tensor, t: int, limits: Tensor) -> Tensor:
        """scores [*, B, V] after t symbols; at a sentence's limit only <eos> may come."""
        if self.never is None:
            self.never = scores.new_zeros(scores.shape[-1])
            self.never[NEVER] = float("-inf")
        scores = scores + self.never
        if t < self.shortest:
            return scores
        not_eos = torch.arange(scores.shape[-1], device=scores.device) != EOS
        return scores.masked_fill((t >= limits).unsqueeze(1) & not_eos, float("-inf"))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x [B, K, *] at index [B, J]: [B, J, *]."""
    return x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _until_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS)]
