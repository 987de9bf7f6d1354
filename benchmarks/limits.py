"""What no float32 implementation can pass on this machine: what a goal can be held against.

A step takes at least as long as each of these alone:

- its least flops as multiply-adds in registers, on all threads (a large torch.mm stays below);
- its inputs read from memory once, those that rotate through buffers larger than the caches;
- the recurrent weights read at every time step, forward and backward, each thread its share, at the
  rate of the cache that this fits. (h of a step needs h of the step before, so no two steps can
  share a read; weights that would fit the registers are not in the grid.)

Calls, activations, everything else written or read, and waiting for each other count nothing. The
baseline's time by that floor is the ceiling of the ratio: what a perfect implementation would show.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

import fastchar

from .roofline import Work

# Bytes that a thread reads again and again; the last are beyond every cache.
SIZES = tuple(2**k for k in range(14, 27))


@dataclass(frozen=True)
class Limits:
    """flops/s of multiply-adds in registers, bytes/s by the bytes that each thread reads."""

    flops_per_second: float
    bytes_per_second: dict[int, float]
    threads: int

    @classmethod
    def measure(cls) -> "Limits | None":
        """The highest of several tries each; None without the native library."""
        if fastchar.backends()["backend"] != "native":
            return None
        library: Any = import_module("fastchar._C")
        reads = {size: library.read_rate(size) for size in SIZES}
        return cls(library.multiply_add_rate(), reads, torch.get_num_threads())

    def best(self, other: "Limits") -> "Limits":
        """The higher of two measurements, rate by rate: what else ran can only lower one."""
        reads = {k: max(v, other.bytes_per_second[k]) for k, v in self.bytes_per_second.items()}
        flops = max(self.flops_per_second, other.flops_per_second)
        return Limits(flops, reads, self.threads)

    def read_rate(self, size: float) -> float:
        """bytes/s where each thread reads `size` bytes: that of the largest not above it."""
        fitting = [known for known in self.bytes_per_second if known <= size]
        return self.bytes_per_second[max(fitting, default=min(self.bytes_per_second))]

    def seconds(self, work: Work) -> float:
        """The least time for `work`."""
        compute = work.flops / self.flops_per_second
        memory = work.cold / self.bytes_per_second[max(self.bytes_per_second)]
        weights = work.held * work.passes / self.read_rate(work.held / self.threads)
        return max(compute, memory, weights)
