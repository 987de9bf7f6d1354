"""LSTMCell in a Python loop over T steps, as in hand-written decoders: [T, B, E] to [T, B, H]."""

import torch
from torch import Tensor, nn

import fastchar

from .. import roofline
from ..grids import Point
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group


def build(point: Point) -> Case:
    """A training step of the loop, the input's gradient included."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    buffers = buffers_beyond_cache(4 * T * B * (E + H), last_level_cache())
    inputs = [torch.randn(T, B, E, requires_grad=True) for _ in range(buffers)]
    grads = [torch.randn(T, B, H) for _ in range(buffers)]
    plain, ours = nn.LSTMCell(E, H), fastchar.LSTMCell(E, H)
    ours.load_state_dict(plain.state_dict())

    def contestant(name: str, cell: nn.LSTMCell) -> Contestant:
        def forward(i: int) -> Tensor:
            state = (torch.zeros(B, H), torch.zeros(B, H))
            outputs = []
            for x in inputs[i].unbind(0):
                state = cell(x, state)
                outputs.append(state[0])
            return torch.stack(outputs)

        return Contestant(
            name,
            forward,
            lambda output, i: output.backward(grads[i]),
            parameters=[*cell.parameters(), *inputs],
        )

    return Case([contestant("torch", plain), contestant(OURS, ours)], buffers)


GROUPS = (
    Group(
        "lstm_cell_loop",
        "LSTMCell loop, training step",
        "step",
        ("torch",),
        ("torch", OURS),
        build,
        roofline.lstm_cell_loop,
    ),
)
