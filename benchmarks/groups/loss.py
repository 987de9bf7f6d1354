"""Linear + cross entropy, mean over N tokens: input [N, H], weight [V, H], bias [V], target [N]."""

import torch
import torch.nn.functional as F
from torch import Tensor

import fastchar.functional

from .. import roofline
from ..covering import Point
from ..grids import TORCH_COMPILE
from ..inputs import randn
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group, compiled

# torch's own fused form came with 2.13.
TORCH = ("linear + cross_entropy", "linear_cross_entropy")[: 1 + hasattr(F, "linear_cross_entropy")]


def build(point: Point) -> Case:
    """A training step: loss, and the gradients of input, weight and bias."""
    V, H, N = (point[axis] for axis in "VHN")
    buffers = buffers_beyond_cache(4 * N * H, last_level_cache())
    inputs = [randn(N, H).requires_grad_() for _ in range(buffers)]
    targets = [torch.randint(V, (N,)) for _ in range(buffers)]
    weight = (randn(V, H) / H**0.5).requires_grad_()
    bias = torch.zeros(V, requires_grad=True)
    leaves = [weight, bias, *inputs]

    def plain(x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight, bias), target)

    fused = compiled(plain)

    def backward(loss: Tensor, i: int) -> None:
        loss.backward()

    contestants = [
        Contestant(
            TORCH[0],
            lambda i: plain(inputs[i], targets[i]),
            backward,
            parameters=leaves,
        ),
        Contestant(
            TORCH_COMPILE,
            lambda i: fused(inputs[i], targets[i]),
            backward,
            parameters=leaves,
            may_fail=True,
        ),
        Contestant(
            OURS,
            lambda i: fastchar.functional.linear_cross_entropy(
                inputs[i], weight, targets[i], linear_bias=bias
            ),
            backward,
            parameters=leaves,
        ),
    ]
    if len(TORCH) == 2:
        options = torch.nn.LinearCrossEntropyOptions()  # its chunked form, the faster one
        contestants.insert(
            1,
            Contestant(
                TORCH[1],
                lambda i: F.linear_cross_entropy(
                    inputs[i], weight, targets[i], linear_bias=bias, options=options
                ),
                backward,
                parameters=leaves,
            ),
        )
    return Case(contestants, buffers)


GROUPS = (
    Group(
        "linear_cross_entropy",
        "Linear + cross entropy, training step",
        "step",
        (*TORCH, TORCH_COMPILE),
        (*TORCH, TORCH_COMPILE, OURS),
        build,
        roofline.linear_cross_entropy,
    ),
)
