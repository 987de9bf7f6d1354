"""The LSTM alone, of numbers: x [T, B, E] to [T, B, H], where nothing is there to fold.

What changing an import gives: one layer, no lengths, nn.LSTM's own arguments.
"""

from torch import nn

import fastchar

from .. import roofline
from ..covering import Point
from ..inputs import module, randn
from ..interleave import Case, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group
from .lstm_uniform import inference, training

NAMES = ("torch", OURS)


def _modules(point: Point) -> dict[str, nn.Module]:
    """The contestants' modules, with equal parameters."""
    E, H = point["E"], point["H"]
    plain, ours = module(lambda: nn.LSTM(E, H)), module(lambda: fastchar.LSTM(E, H))
    ours.load_state_dict(plain.state_dict())
    return dict(zip(NAMES, (plain, ours), strict=True))


def build_training(point: Point) -> Case:
    """x [T, B, E], whose gradient is made too; upstream gradients [T, B, H]."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    buffers = buffers_beyond_cache(4 * T * B * (E + H), last_level_cache())
    inputs = [randn(T, B, E).requires_grad_() for _ in range(buffers)]
    return training(_modules(point), inputs, [randn(T, B, H) for _ in inputs])


def build_inference(point: Point) -> Case:
    """x [T, B, E]."""
    T, B, E = (point[axis] for axis in "TBE")
    buffers = buffers_beyond_cache(4 * T * B * E, last_level_cache())
    return inference(_modules(point), [randn(T, B, E) for _ in range(buffers)])


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
