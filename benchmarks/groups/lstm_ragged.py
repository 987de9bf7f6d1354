"""Embedding + LSTM over a ragged batch, lengths T/4..T in random order: padded, packed, ours."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastchar

from .. import roofline
from ..covering import Point
from ..grids import SYMBOLS
from ..inputs import module, randn
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group
from .lstm_uniform import TorchEmbeddingLSTM


def build(point: Point) -> Case:
    """A training step. Each buffer permutes the same evenly spread lengths: equal work."""
    T, B, E, H, L = (point[axis] for axis in "TBEHL")
    both = bool(point["bidirectional"])
    width = H * (1 + both)
    buffers = buffers_beyond_cache(4 * T * B * width, last_level_cache())
    spread = torch.linspace(T // 4, T, B).round().long()
    lengths = [spread[torch.randperm(B)] for _ in range(buffers)]
    ids = [torch.randint(SYMBOLS, (T, B)) for _ in range(buffers)]
    grads = [randn(T, B, width) for _ in range(buffers)]

    plain = module(lambda: TorchEmbeddingLSTM(SYMBOLS, E, H, L, bidirectional=both))
    ours = module(lambda: fastchar.EmbeddingLSTM(SYMBOLS, E, H, L, bidirectional=both))
    ours.load_state_dict(plain.state_dict())

    def backward(output: Tensor, i: int) -> None:
        output.backward(grads[i])

    def contestant(name: str, model: nn.Module, forward: Callable[[int], Tensor]) -> Contestant:
        return Contestant(name, forward, backward, parameters=list(model.parameters()))

    contestants = [
        contestant("packed", plain, lambda i: plain(ids[i], lengths[i])),
        # Not the same result: the padding is computed as if it were text.
        contestant("padded", plain, lambda i: plain(ids[i])),
        contestant(OURS, ours, lambda i: ours(ids[i], lengths=lengths[i])[0]),
    ]
    return Case(contestants, buffers)


GROUPS = (
    Group(
        "lstm_ragged",
        "Embedding + LSTM, training step, ragged batch",
        "step",
        ("packed",),
        ("packed", "padded", OURS),
        build,
        roofline.lstm_ragged,
        floors=("padded",),
    ),
)
