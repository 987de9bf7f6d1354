"""Embedding gather (forward) and gradient (backward) on ids [N] and a table [V, E]."""

import torch
import torch.nn.functional as F
from torch import Tensor

import fastchar.functional

from .. import roofline
from ..grids import Point
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group


def build_gather(point: Point) -> Case:
    """Lookups without a gradient."""
    V, E, N = (point[axis] for axis in "VEN")
    buffers = buffers_beyond_cache(8 * N, last_level_cache())
    weight = torch.randn(V, E)
    ids = [torch.randint(V, (N,)) for _ in range(buffers)]
    contestants = [
        Contestant("torch", lambda i: F.embedding(ids[i], weight)),
        Contestant("index_select", lambda i: weight.index_select(0, ids[i])),
        # Not the same job: the floor, which writes the output once.
        Contestant("fill", lambda i: torch.full((N, E), 1.0)),
        Contestant(OURS, lambda i: fastchar.functional.embedding(ids[i], weight)),
    ]
    return Case(contestants, buffers)


def build_gradient(point: Point) -> Case:
    """The gradient of a lookup through autograd, upstream gradients [N, E] beyond the cache."""
    V, E, N = (point[axis] for axis in "VEN")
    buffers = buffers_beyond_cache(4 * N * E, last_level_cache())
    weight = torch.randn(V, E, requires_grad=True)
    ids = [torch.randint(V, (N,)) for _ in range(buffers)]
    grads = [torch.randn(N, E) for _ in range(buffers)]

    def autograd(out: Tensor, i: int) -> None:
        out.backward(grads[i])

    def nothing(i: int) -> None:
        return None

    contestants = [
        Contestant("torch", lambda i: F.embedding(ids[i], weight), autograd, parameters=[weight]),
        Contestant(
            "index_add_", nothing, lambda _, i: torch.zeros(V, E).index_add_(0, ids[i], grads[i])
        ),
        # Not the same job: floors, which read the upstream gradient once.
        Contestant("sum over tokens", nothing, lambda _, i: grads[i].sum(0)),
        Contestant("sum", nothing, lambda _, i: grads[i].sum()),
        Contestant(
            OURS,
            lambda i: fastchar.functional.embedding(ids[i], weight),
            autograd,
            parameters=[weight],
        ),
    ]
    return Case(contestants, buffers)


GROUPS = (
    Group(
        "embedding_gather",
        "Embedding lookup, inference",
        "forward",
        ("torch",),
        ("torch", "index_select", "fill", OURS),
        build_gather,
        roofline.embedding_gather,
    ),
    Group(
        "embedding_gradient",
        "Embedding gradient",
        "backward",
        ("torch",),
        ("torch", "index_add_", "sum over tokens", "sum", OURS),
        build_gradient,
        roofline.embedding_gradient,
    ),
)
