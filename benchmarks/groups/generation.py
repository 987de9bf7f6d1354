"""A language model that writes: T symbols, each drawn from the logits of the step before.

Every contestant draws with the same numbers in [0, 1), a symbol being the one at which the sum of
probabilities passes its number, so that all write the same text; what is compared is the last
layer's state after it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastchar.functional

from .. import roofline
from ..covering import Point
from ..grids import SYMBOLS, TORCH_COMPILE
from ..inputs import module
from ..interleave import Case, Contestant
from . import OURS, Group, compiled

BUFFERS = 16  # texts; the weights stay where they are, in the cache if they fit
# (last symbol [1], state, number [1]) -> (symbol [1], state); h of the last layer is state[0][-1]
Step = Callable[[Tensor, tuple[Tensor, Tensor], Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]


class Model(nn.Module):
    """Embedding, LSTM layers, and the logits of what comes next."""

    def __init__(self, E: int, H: int, L: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, E)
        self.lstm = nn.LSTM(E, H, L)
        self.head = nn.Linear(H, SYMBOLS)


def drawn(logits: Tensor, number: Tensor) -> Tensor:
    """logits [SYMBOLS] to a symbol [1]."""
    return torch.searchsorted(logits.softmax(0).cumsum(0), number, right=True)


def by_lstm(model: Model) -> Step:
    """nn.LSTM on sequences of one step."""

    def step(
        last: Tensor, state: tuple[Tensor, Tensor], number: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, state = model.lstm(model.embedding(last), state)
        return drawn(model.head(output[-1]), number), state

    return step


def by_cells(model: Model) -> Step:
    """An nn.LSTMCell for each layer, with nn.LSTM's parameters."""
    layers = []
    for layer in range(model.lstm.num_layers):
        width = model.lstm.hidden_size if layer else model.lstm.input_size
        cell = nn.LSTMCell(width, model.lstm.hidden_size)
        for name, _ in list(cell.named_parameters()):
            setattr(cell, name, getattr(model.lstm, f"{name}_l{layer}"))
        layers.append(cell)

    def step(
        last: Tensor, state: tuple[Tensor, Tensor], number: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = model.embedding(last)
        h, c = [], []
        for layer, cell in enumerate(layers):
            x, below = cell(x, (state[0][layer].unsqueeze(0), state[1][layer].unsqueeze(0)))
            h.append(x)
            c.append(below)
        return drawn(model.head(x[0]), number), (torch.cat(h), torch.cat(c))

    return step


def build(point: Point) -> Case:
    """Texts that all begin with symbol 0 and no past."""
    E, H, L, T = (point[axis] for axis in "EHLT")
    model = module(lambda: Model(E, H, L)).requires_grad_(False)
    numbers = [torch.rand(T, dtype=torch.float64) for _ in range(BUFFERS)]
    singles = [n.to(torch.get_default_dtype()).split(1) for n in numbers]
    start = torch.zeros(L, H), torch.zeros(L, H)
    first = torch.zeros(1, dtype=torch.int64)

    def loop(name: str, step: Step, may_fail: bool = False) -> Contestant:
        def write(i: int) -> Tensor:
            last, state = first, start
            for number in singles[i]:
                last, state = step(last, state, number)
            return state[0][-1]

        return Contestant(name, write, may_fail=may_fail)

    def ours(i: int) -> Tensor:
        _, h, _ = fastchar.functional.lstm_generate(
            0,
            model.embedding.weight,
            list(model.lstm.parameters()),
            model.head.weight,
            model.head.bias,
            *start,
            numbers[i],
        )
        return h[-1]

    contestants = [
        loop("nn.LSTM", by_lstm(model)),
        loop("nn.LSTMCell", by_cells(model)),
        loop(TORCH_COMPILE, compiled(by_cells(model)), may_fail=True),
        Contestant(OURS, ours),
    ]
    return Case(contestants, BUFFERS)


GROUPS = (
    Group(
        "generation",
        "Language model, writing, a symbol at a time",
        "forward",
        ("nn.LSTM", "nn.LSTMCell", TORCH_COMPILE),
        ("nn.LSTM", "nn.LSTMCell", TORCH_COMPILE, OURS),
        build,
        roofline.generation,
    ),
)
