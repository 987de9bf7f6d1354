"""Times contestants round by round in one process, so that a ratio compares the same moment.

A machine drifts (clock, neighbours, caches) by more than the differences worth reporting. So every
round runs every contestant once, in an order that rotates and reverses; a ratio is taken inside a
round, and its median and quartiles over the rounds are what gets reported. Each call uses the next
of several input buffers, together larger than the last-level cache.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

PHASES = ("forward", "backward", "update", "step")


@dataclass
class Contestant:
    """One way to do the job. The integer passed to the callables picks the input buffer.

    A step drops the gradients of `parameters` (as `zero_grad(set_to_none=True)` does), then runs
    forward, backward and update, and frees what they made: all of it is in the time of `step`.
    """

    name: str
    forward: Callable[[int], Any]
    backward: Callable[[Any, int], Any] | None = None
    update: Callable[[], Any] | None = None
    parameters: Sequence[Tensor] = ()

    def step(self, index: int) -> dict[str, float]:
        """Runs one step on buffer `index`; returns seconds by phase."""
        seconds = dict.fromkeys(PHASES, 0.0)
        start = time.perf_counter()
        for parameter in self.parameters:
            parameter.grad = None
        begin = time.perf_counter()
        output = self.forward(index)
        end = time.perf_counter()
        seconds["forward"] = end - begin
        if self.backward is not None:
            kept = self.backward(output, index)
            begin, end = end, time.perf_counter()
            seconds["backward"] = end - begin
            del kept
        if self.update is not None:
            begin = time.perf_counter()
            self.update()
            seconds["update"] = time.perf_counter() - begin
        del output
        seconds["step"] = time.perf_counter() - start
        return seconds


@dataclass
class Case:
    """The contestants of one grid point, and how many input buffers they rotate through."""

    contestants: list[Contestant]
    buffers: int = 1
    # Set when the buffers differ in work (batches of several lengths): a sample is then one pass
    # over all of them, so that every sample is the same work.
    whole_passes: bool = False


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the samples of one quantity."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, q1, q3)


@dataclass
class Timing:
    """Seconds by contestant and phase, one sample a round; samples of a round share an index."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def spread(self, name: str, phase: str) -> Spread:
        return Spread.of(self.samples[name][phase])

    def ratio(self, numerator: str, denominator: str, phase: str) -> Spread:
        """Spread over the rounds of numerator's time by denominator's, taken within each round."""
        top, bottom = self.samples[numerator][phase], self.samples[denominator][phase]
        return Spread.of([a / b for a, b in zip(top, bottom, strict=True)])

    @property
    def rounds(self) -> int:
        return len(next(iter(next(iter(self.samples.values())).values())))


def order_of_round(count: int, index: int) -> list[int]:
    """Who runs when in round `index`: rotated every second round, reversed every other."""
    shift = index // 2
    order = [(shift + place) % count for place in range(count)]
    return order[::-1] if index % 2 else order


def buffers_beyond_cache(bytes_each: int, cache_bytes: int, most: int = 64) -> int:
    """How many buffers of `bytes_each` to rotate so that none is in the cache when it returns."""
    return max(1, min(most, -(-2 * cache_bytes // max(1, bytes_each))))


def measure(
    case: Case,
    *,
    budget: float,
    least_rounds: int = 5,
    most_rounds: int = 101,
    least_sample: float = 1e-3,
) -> Timing:
    """Interleaves the case's contestants for about `budget` seconds.

    Short steps are repeated until a sample lasts `least_sample` seconds; samples are per step.
    """
    contestants = case.contestants
    count = len(contestants)
    # Neighbours start apart in the ring of buffers, so nobody finds what another one just read.
    position = [place * case.buffers // count for place in range(count)]

    def sample(place: int, repeats: int) -> dict[str, float]:
        total = dict.fromkeys(PHASES, 0.0)
        for _ in range(repeats):
            seconds = contestants[place].step(position[place] % case.buffers)
            position[place] += 1
            for phase in PHASES:
                total[phase] += seconds[phase]
        return {phase: total[phase] / repeats for phase in PHASES}

    unit = case.buffers if case.whole_passes else 1
    gc.collect()
    gc.disable()
    try:
        for place in range(count):
            sample(place, unit)  # first calls: lazy set-up, packed weights, the allocator
        fastest = min(sample(place, unit)["step"] for place in range(count))
        repeats = unit * max(1, round(least_sample / max(fastest, 1e-9) / unit))
        timing = Timing({c.name: {phase: [] for phase in PHASES} for c in contestants})
        start = time.perf_counter()
        for index in range(most_rounds):
            if index >= least_rounds and time.perf_counter() - start > budget:
                break
            for place in order_of_round(count, index):
                for phase, seconds in sample(place, repeats).items():
                    timing.samples[contestants[place].name][phase].append(seconds)
    finally:
        gc.enable()
    return timing
