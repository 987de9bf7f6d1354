"""LSTMCell in a Python loop over T steps, as in hand-written decoders: [T, B, E] to [T, B, H]."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastchar

from .. import roofline
from ..covering import Point
from ..grids import TORCH_COMPILE
from ..inputs import module, randn
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group, compiled


def build(point: Point) -> Case:
    """A training step of the loop, the input's gradient included."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    buffers = buffers_beyond_cache(4 * T * B * (E + H), last_level_cache())
    inputs = [randn(T, B, E).requires_grad_() for _ in range(buffers)]
    grads = [randn(T, B, H) for _ in range(buffers)]
    plain = module(lambda: nn.LSTMCell(E, H))
    ours = module(lambda: fastchar.LSTMCell(E, H))
    ours.load_state_dict(plain.state_dict())

    def loop(cell: nn.LSTMCell) -> Callable[[Tensor], Tensor]:
        def forward(sequence: Tensor) -> Tensor:
            state = (sequence.new_zeros(B, H), sequence.new_zeros(B, H))
            outputs = []
            for x in sequence.unbind(0):
                state = cell(x, state)
                outputs.append(state[0])
            return torch.stack(outputs)

        return forward

    def contestant(
        name: str, cell: nn.LSTMCell, forward: Callable[[Tensor], Tensor], may_fail: bool = False
    ) -> Contestant:
        return Contestant(
            name,
            lambda i: forward(inputs[i]),
            lambda output, i: output.backward(grads[i]),
            parameters=[*cell.parameters(), *inputs],
            may_fail=may_fail,
        )

    contestants = [
        contestant("torch", plain, loop(plain)),
        # The loop as a whole, unrolled: what gives the compiler the most to fuse.
        contestant(TORCH_COMPILE, plain, compiled(loop(plain)), may_fail=True),
        contestant(OURS, ours, loop(ours)),
    ]
    return Case(contestants, buffers)


GROUPS = (
    Group(
        "lstm_cell_loop",
        "LSTMCell loop, training step",
        "step",
        ("torch", TORCH_COMPILE),
        ("torch", TORCH_COMPILE, OURS),
        build,
        roofline.lstm_cell_loop,
    ),
)
