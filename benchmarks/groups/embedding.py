"""Embedding gather (forward) and gradient (backward) on ids [N] and a table [V, E]."""

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


def build_gather(point: Point) -> Case:
    """Lookups without a gradient."""
    V, E, N = (point[axis] for axis in "VEN")
    buffers = buffers_beyond_cache(8 * N, last_level_cache())
    weight = randn(V, E)
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
    weight = randn(V, E).requires_grad_()
    ids = [torch.randint(V, (N,)) for _ in range(buffers)]
    grads = [randn(N, E) for _ in range(buffers)]

    def autograd(out: Tensor, i: int) -> None:
        out.backward(grads[i])

    def nothing(i: int) -> None:
        return None

    lookup = compiled(F.embedding)
    contestants = [
        Contestant("torch", lambda i: F.embedding(ids[i], weight), autograd, parameters=[weight]),
        Contestant(
            "index_add_", nothing, lambda _, i: torch.zeros(V, E).index_add_(0, ids[i], grads[i])
        ),
        Contestant(
            TORCH_COMPILE,
            lambda i: lookup(ids[i], weight),
            autograd,
            parameters=[weight],
            may_fail=True,
        ),
        # Not the same job: floors, which read the upstream gradient once and write next to nothing.
        # torch runs both on all threads; `sum`, into one number, goes at the memory's speed.
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
        floors=("fill",),
    ),
    Group(
        "embedding_gradient",
        "Embedding gradient",
        "backward",
        ("torch", TORCH_COMPILE),
        ("torch", "index_add_", TORCH_COMPILE, "sum over tokens", "sum", OURS),
        build_gradient,
        roofline.embedding_gradient,
        floors=("sum over tokens", "sum"),
    ),
)
