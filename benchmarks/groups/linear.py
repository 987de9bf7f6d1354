"""The input projection of many tokens, training step: input [N, E], weight [4H, E], bias [4H]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import fastchar.functional

from .. import roofline
from ..covering import Point
from ..inputs import randn
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group

TORCH = "F.linear"


def build(point: Point) -> Case:
    """A training step: gates, and the gradients of input, weight and bias."""
    E, H, N = (point[axis] for axis in "EHN")
    buffers = buffers_beyond_cache(4 * N * (E + 4 * H), last_level_cache())
    inputs = [randn(N, E).requires_grad_() for _ in range(buffers)]
    grads = [randn(N, 4 * H) / N**0.5 for _ in range(buffers)]
    weight = (randn(4 * H, E) / E**0.5).requires_grad_()
    bias = torch.zeros(4 * H, requires_grad=True)

    def contestant(name: str, linear: Callable[..., Tensor]) -> Contestant:
        return Contestant(
            name,
            lambda i: linear(inputs[i], weight, bias),
            lambda gates, i: gates.backward(grads[i]),
            parameters=[weight, bias, *inputs],
        )

    ours = contestant(OURS, fastchar.functional.linear)
    return Case([contestant(TORCH, F.linear), ours], buffers)


GROUPS = (
    Group(
        "linear",
        "Input projection, training step",
        "step",
        (TORCH,),
        (TORCH, OURS),
        build,
        roofline.linear,
    ),
)
