"""One step at a time in a Python loop over T steps, as in hand-written decoders: [T, B, E] to
[T, B, H], by LSTMCell and by an LSTM that gets sequences of one step."""

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

Forward = Callable[[Tensor], Tensor]


def cell_loop(cell: nn.LSTMCell) -> Forward:
    def forward(sequence: Tensor) -> Tensor:
        zeros = sequence.new_zeros(sequence.shape[1], cell.hidden_size)
        state = (zeros, zeros)
        outputs = []
        for x in sequence.unbind(0):
            state = cell(x, state)
            outputs.append(state[0])
        return torch.stack(outputs)

    return forward


def lstm_loop(lstm: nn.Module) -> Forward:
    def forward(sequence: Tensor) -> Tensor:
        state = None
        outputs = []
        for x in sequence.split(1):
            output, state = lstm(x, state)
            outputs.append(output)
        return torch.cat(outputs)

    return forward


class Loop:
    """A training step of the loop around a module, the input's gradient included."""

    def __init__(self, point: Point) -> None:
        T, B, E, H = (point[axis] for axis in "TBEH")
        self.sizes = (E, H)
        self.buffers = buffers_beyond_cache(4 * T * B * (E + H), last_level_cache())
        self.inputs = [randn(T, B, E).requires_grad_() for _ in range(self.buffers)]
        self.grads = [randn(T, B, H) for _ in range(self.buffers)]

    def contestant(
        self, name: str, stepper: nn.Module, forward: Forward, may_fail: bool = False
    ) -> Contestant:
        return Contestant(
            name,
            lambda i: forward(self.inputs[i]),
            lambda output, i: output.backward(self.grads[i]),
            parameters=[*stepper.parameters(), *self.inputs],
            may_fail=may_fail,
        )


def of_cells(point: Point) -> Case:
    case = Loop(point)
    plain = module(lambda: nn.LSTMCell(*case.sizes))
    ours = module(lambda: fastchar.LSTMCell(*case.sizes))
    ours.load_state_dict(plain.state_dict())
    # The loop as a whole, unrolled: what gives the compiler the most to fuse.
    unrolled = compiled(cell_loop(plain))
    contestants = [
        case.contestant("torch", plain, cell_loop(plain)),
        case.contestant(TORCH_COMPILE, plain, unrolled, may_fail=True),
        case.contestant(OURS, ours, cell_loop(ours)),
    ]
    return Case(contestants, case.buffers)


def of_lstms(point: Point) -> Case:
    case = Loop(point)
    plain = module(lambda: nn.LSTM(*case.sizes))
    ours = module(lambda: fastchar.LSTM(*case.sizes))
    ours.load_state_dict(plain.state_dict())
    contestants = [
        case.contestant("torch", plain, lstm_loop(plain)),
        case.contestant(OURS, ours, lstm_loop(ours)),
    ]
    return Case(contestants, case.buffers)


GROUPS = (
    Group(
        "lstm_cell_loop",
        "LSTMCell loop, training step",
        "step",
        ("torch", TORCH_COMPILE),
        ("torch", TORCH_COMPILE, OURS),
        of_cells,
        roofline.lstm_cell_loop,
    ),
    Group(
        "lstm_step_loop",
        "LSTM, one step a call, training step",
        "step",
        ("torch",),
        ("torch", OURS),
        of_lstms,
        roofline.lstm_cell_loop,
    ),
)
