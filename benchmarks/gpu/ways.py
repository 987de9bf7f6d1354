"""A step of each of the ways in which a sequence can run, forced: what the model in
`csrc/cuda/ways.h`, by which the launcher chooses, is to be set by."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.race import Entry, Point, race

Results = tuple[Tensor, ...]
Sequence = Callable[[Tensor], Results]
Backward = Callable[[Tensor, Results], Results]
STEPS, SYMBOLS = 128, 96
BATCHES = (8, 32, 128, 512)
CHOICE = "FASTCHAR_CUDA_LSTM"
# The ways that may serve an H of 16-bit types; of fp32 as TF32, half of it.
WAYS = {
    128: ("block", "steps"),
    256: ("cluster", "grid", "steps"),
    512: ("cluster", "grid", "steps"),
    1024: ("grid", "steps"),
}


def way_points() -> Iterator[Point]:
    """Of one direction from a folded table, as training runs it."""
    for dtype, halved in ((torch.bfloat16, 1), (torch.float32, 2)):
        for size, ways in WAYS.items():
            for B in BATCHES:
                for way in ways:
                    H = size // halved
                    name = "tf32" if dtype == torch.float32 else "bf16"
                    point = {"H": H, "B": B, "dtype": name, "way": way}
                    yield "ways", point, functools.partial(step_times, H, B, dtype, way)


@contextlib.contextmanager
def forced(way: str) -> Iterator[None]:
    before = os.environ.get(CHOICE)
    os.environ[CHOICE] = way
    try:
        yield
    finally:
        if before is None:
            del os.environ[CHOICE]
        else:
            os.environ[CHOICE] = before


def steps_of(H: int, B: int, dtype: torch.dtype) -> tuple[Sequence, Backward, list[Tensor]]:
    """Forward with what backward needs; backward with W_hh's and the table's gradients; ids for
    both [STEPS, B], of several batches."""
    from fastchar import autograd  # not before the library may be there

    table = torch.randn(SYMBOLS, 4 * H, device="cuda", dtype=dtype)
    w_hh = torch.randn(4 * H, H, device="cuda", dtype=dtype) / H**0.5
    state = torch.randn(B, H, device="cuda", dtype=dtype)
    batches = [torch.randint(SYMBOLS, (STEPS, B), device="cuda") for _ in range(2)]

    def forward(ids: Tensor) -> Results:
        results: Results = autograd.lstm_sequence(table, ids, w_hh, state, state, None, False, True)
        return results

    def backward(ids: Tensor, results: Results) -> Results:
        inputs = (ids, w_hh, state, state, None, False)
        grads: Results = autograd._lstm_sequence_backward(
            *results, results[0], *inputs, SYMBOLS, True
        )
        return grads

    return forward, backward, batches


def step_times(H: int, B: int, dtype: torch.dtype, way: str) -> Entry:
    """Seconds of a step, forward and backward."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    forward, backward, batches = steps_of(H, B, dtype)
    with forced(way):
        results = [forward(ids) for ids in batches]
        backwards = [
            functools.partial(backward, ids, result)
            for ids, result in zip(batches, results, strict=True)
        ]
        forwards = [functools.partial(forward, ids) for ids in batches]
        return {"forward": a_step(forwards), "backward": a_step(backwards)}


def a_step(calls: Iterable[Callable[[], Any]]) -> Entry:
    seconds = race({"fastchar": [*calls]}, 0.1)["seconds"]
    return {"seconds": {name: value / STEPS for name, value in seconds.items()}}
