"""The LSTM alone, of numbers: x [T, B, E] to [T, B, H], where nothing is there to fold.

What changing an import gives: one layer, no lengths, nn.LSTM's own arguments.
"""

import torch
from torch import Tensor, nn

import fastchar

from .. import roofline
from ..covering import Point
from ..inputs import module, randn
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group

NAMES = ("torch", OURS)


def _modules(point: Point) -> dict[str, nn.Module]:
    """The contestants' modules, with equal parameters."""
    E, H = point["E"], point["H"]
    plain, ours = module(lambda: nn.LSTM(E, H)), module(lambda: fastchar.LSTM(E, H))
    ours.load_state_dict(plain.state_dict())
    return dict(zip(NAMES, (plain, ours), strict=True))


def build_training(point: Point) -> Case:
    """Forward and backward from a given upstream gradient [T, B, H], to x and every parameter."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    buffers = buffers_beyond_cache(4 * T * B * (E + H), last_level_cache())
    inputs = [randn(T, B, E).requires_grad_() for _ in range(buffers)]
    grads = [randn(T, B, H) for _ in range(buffers)]

    def contestant(name: str, model: nn.Module) -> Contestant:
        def forward(i: int) -> Tensor:
            output: Tensor = model(inputs[i])[0]
            return output

        return Contestant(
            name,
            forward,
            lambda output, i: output.backward(grads[i]),
            parameters=[*model.parameters(), *inputs],
        )

    return Case([contestant(*item) for item in _modules(point).items()], buffers)


def build_inference(point: Point) -> Case:
    """Forward alone, under no_grad, in eval mode."""
    T, B, E = (point[axis] for axis in "TBE")
    buffers = buffers_beyond_cache(4 * T * B * E, last_level_cache())
    inputs = [randn(T, B, E) for _ in range(buffers)]

    def contestant(name: str, model: nn.Module) -> Contestant:
        model.eval()

        @torch.no_grad()
        def forward(i: int) -> Tensor:
            output: Tensor = model(inputs[i])[0]
            return output

        return Contestant(name, forward)

    return Case([contestant(*item) for item in _modules(point).items()], buffers)


GROUPS = (
    Group(
        "dense_training",
        "LSTM alone, training step, uniform batch",
        "step",
        ("torch",),
        NAMES,
        build_training,
        roofline.dense_training,
    ),
    Group(
        "dense_inference",
        "LSTM alone, inference, uniform batch",
        "forward",
        ("torch",),
        NAMES,
        build_inference,
        roofline.dense_inference,
    ),
)
