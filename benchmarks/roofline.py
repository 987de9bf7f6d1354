"""Flops and bytes that an operation cannot do without, beside what this machine can do.

The counts are of the least work: each input read once, each output written once, multiply-adds as
two flops, activations not counted. A kernel at 100 % would run at the rate of a large torch matrix
product or of a large copy, whichever bounds it; both are measured in the same run as the kernels.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from .covering import Point
from .grids import SYMBOLS

FLOAT = 4  # bytes of a float32
ID = 8  # bytes of an int64 id


@dataclass(frozen=True)
class Work:
    """Least flops and bytes of one step.

    Of the bytes, `cold` are inputs that rotate and so come from memory. A recurrence also reads the
    `held` bytes of its weights `passes` times, out of a cache where they fit one.
    """

    flops: float
    bytes: float
    cold: float = 0.0
    held: float = 0.0
    passes: int = 0


@dataclass(frozen=True)
class Roof:
    """What the machine reaches: flops/s of a large float32 product, bytes/s of a large copy."""

    flops_per_second: float
    bytes_per_second: float

    @classmethod
    def measure(cls, side: int = 2048, copy_bytes: int = 2**28) -> "Roof":
        """The fastest of several tries each; a copy counts the bytes read and written."""
        a, b, c = (torch.randn(side, side) for _ in range(3))
        source = torch.zeros(copy_bytes // FLOAT)
        target = torch.zeros_like(source)
        product = _fastest(lambda: torch.mm(a, b, out=c))
        copy = _fastest(lambda: target.copy_(source))
        return cls(2.0 * side**3 / product, 2.0 * copy_bytes / copy)

    def best(self, other: "Roof") -> "Roof":
        """The higher of two measurements, rate by rate: what else ran can only lower one."""
        return Roof(
            max(self.flops_per_second, other.flops_per_second),
            max(self.bytes_per_second, other.bytes_per_second),
        )

    def seconds(self, work: Work) -> float:
        """The least time for `work`."""
        return max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)

    def position(self, work: Work, seconds: float) -> dict[str, Any]:
        """Where a measured time stands: rates, and its share of the roof that bounds it."""
        compute = work.flops / self.flops_per_second
        return {
            "flops": work.flops,
            "bytes": work.bytes,
            "flops_per_second": work.flops / seconds,
            "bytes_per_second": work.bytes / seconds,
            "bound": "compute" if compute >= self.seconds(work) else "memory",
            "share": self.seconds(work) / seconds,
        }


def _fastest(run: Callable[[], Any]) -> float:
    """The least seconds of nine runs, after one to warm up."""
    run()
    samples = []
    for _ in range(9):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return min(samples)


def embedding_gather(point: Point) -> Work:
    """Reads the ids and the table, writes N rows."""
    V, E, N = point["V"], point["E"], point["N"]
    return Work(0.0, FLOAT * (N * E + V * E) + ID * N, cold=ID * N)


def embedding_gradient(point: Point) -> Work:
    """Reads the ids and N rows of gradient, writes the table's gradient."""
    V, E, N = point["V"], point["E"], point["N"]
    cold = FLOAT * N * E + ID * N
    return Work(float(N * E), cold + FLOAT * V * E, cold)


def lstm_inference(point: Point) -> Work:
    """The folded table's product (or the tokens', when fewer) and the recurrent products."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    rows = min(T * B, SYMBOLS)
    flops = 2.0 * 4 * H * (rows * E + T * B * H)
    weights = SYMBOLS * E + 4 * H * (E + H)
    bytes = FLOAT * (weights + T * B * H) + ID * T * B
    return Work(flops, bytes, ID * T * B, FLOAT * 4 * H * H, passes=T)


def lstm_training(point: Point) -> Work:
    """Three times the inference's products; gates and cells (5 H a token) written, then read."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    once = lstm_inference(point)
    saved = 2 * 5 * H * T * B
    gradients = SYMBOLS * E + 4 * H * (E + H) + T * B * H
    return replace(
        once,
        flops=3.0 * once.flops,
        bytes=once.bytes + FLOAT * (saved + gradients),
        cold=once.cold + FLOAT * T * B * H,
        passes=2 * T,
    )


def dense_inference(point: Point) -> Work:
    """Every token's two products; x read, y written."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    flops = 2.0 * T * B * 4 * H * (E + H)
    bytes = FLOAT * (4 * H * (E + H) + T * B * (E + H))
    return Work(flops, bytes, FLOAT * T * B * E, FLOAT * 4 * H * H, passes=T)


def dense_training(point: Point) -> Work:
    """Three times the inference's products; gates and cells written, then read; x's gradient."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    once = dense_inference(point)
    gradients = 4 * H * (E + H) + T * B * (2 * E + H)
    return replace(
        once,
        flops=3.0 * once.flops,
        bytes=once.bytes + FLOAT * (2 * 5 * H * T * B + gradients),
        cold=once.cold + FLOAT * T * B * H,
        passes=2 * T,
    )


def lstm_ragged(point: Point) -> Work:
    """As training, over the real tokens (5/8 of T*B on average), by layer and direction."""
    T, B, E, H, L = (point[axis] for axis in "TBEHL")
    directions = 1 + point["bidirectional"]
    tokens = T * B * 5 / 8
    inputs = min(tokens, SYMBOLS) * E + tokens * (L - 1) * H * directions
    flops = 6.0 * 4 * H * directions * (inputs + tokens * L * H)
    weights = 4 * H * directions * (E + H + (L - 1) * H * (directions + 1))
    traffic = tokens * H * directions * L * (2 * 5 + 3)
    cold = FLOAT * tokens * H * directions + ID * tokens
    return Work(
        flops,
        FLOAT * (2 * weights + traffic) + ID * T * B,
        cold,
        FLOAT * 4 * H * H,
        passes=2 * T * L * directions,
    )


def lstm_cell_loop(point: Point) -> Work:
    """Two products a step forward, four backward; inputs, gates and states once each way."""
    T, B, E, H = (point[axis] for axis in "TBEH")
    flops = 6.0 * T * B * 4 * H * (E + H)
    weights = FLOAT * 4 * H * (E + H)
    cold = FLOAT * T * B * (E + H)
    states = FLOAT * T * B * (2 * E + 2 * 7 * H)
    return Work(flops, 2 * weights + states, cold, weights, passes=2 * T)


def generation(point: Point) -> Work:
    """A symbol's rows of the first layer's projection once, all other weights at every step."""
    T, E, H, L = (point[axis] for axis in "TEHL")
    weights = 4 * H * H * (2 * L - 1) + SYMBOLS * H
    rows = min(T, SYMBOLS) * 4 * H * E
    inputs = SYMBOLS * E + 4 * H * E
    return Work(2.0 * (rows + T * weights), FLOAT * (inputs + weights), 0, FLOAT * weights, T)


def linear(point: Point) -> Work:
    """Three products; rows read twice, their gradient once, and both outputs written."""
    N, E, G = point["N"], point["E"], 4 * point["H"]
    bytes = FLOAT * (N * (3 * E + 2 * G) + 3 * G * E)
    return Work(6.0 * N * E * G, bytes, FLOAT * N * (E + G))


def linear_cross_entropy(point: Point) -> Work:
    """Logits, and the gradients of input and weight; the logits never reach memory."""
    V, H, N = point["V"], point["H"], point["N"]
    bytes = FLOAT * (2 * N * H + 2 * V * H) + ID * N
    return Work(6.0 * N * V * H, bytes, FLOAT * N * H + ID * N)
