"""Times contestants round by round in one process, so that a ratio compares the same moment.

A machine drifts (clock, neighbours) by more than the differences worth reporting. So every round
runs every contestant once, in an order that rotates and reverses; a ratio is taken inside a round,
and its median and quartiles over the rounds are what gets reported. Each call uses the next of
several input buffers (`buffers_beyond_cache`).
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

    `may_fail` is for what this machine may be unable to run at all (torch.compile without a C++
    compiler): its first step's error is then kept, and the others are timed without it.
    `gradients` returns those of the parameters, in an order that all of a case's contestants share;
    it is given where the parameters' own order will not do.
    """

    name: str
    forward: Callable[[int], Any]
    backward: Callable[[Any, int], Any] | None = None
    update: Callable[[], Any] | None = None
    parameters: Sequence[Tensor] = ()
    may_fail: bool = False
    gradients: Callable[[], list[Tensor]] | None = None

    def results(self) -> list[Tensor]:
        """What forward and backward compute on the first buffer: output, then gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        output = self.forward(0)
        returned = None if self.backward is None else self.backward(output, 0)
        found = [t for t in (output, returned) if isinstance(t, Tensor)]
        if self.gradients is not None:
            return found + self.gradients()
        return found + [p.grad for p in self.parameters if p.grad is not None]

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
    """Seconds by contestant and phase, one sample a round; samples of a round share an index.

    `first` holds the seconds of each contestant's first step, which is in no sample: lazy set-up,
    and all of torch.compile's work. `failed` holds the errors of those that could not run.
    """

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

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
    """How many buffers of `bytes_each` to rotate so that none is in the cache when it returns.

    Small ones, of which that would take more than `most`, do stay in it.
    """
    return max(1, min(most, -(-2 * cache_bytes // max(1, bytes_each))))


def measure(
    case: Case,
    *,
    budget: float,
    least_rounds: int = 5,
    most_rounds: int = 101,
    patience: float = 10.0,
    least_sample: float = 20e-3,
) -> Timing:
    """Interleaves the case's contestants for about `budget` seconds.

    At least `least_rounds` rounds, however long they take, or 3 once `patience` seconds are gone.
    Short steps are repeated until a sample lasts `least_sample` seconds; samples are per step. The
    first steps after another contestant's find its memory in the caches, up to a millisecond's
    worth; a program that trains one model never sees them, so they must not be most of a sample.
    """
    unit = case.buffers if case.whole_passes else 1
    gc.collect()
    gc.disable()
    try:
        timing, contestants = _first_steps(case)
        count = len(contestants)
        position = _starts(count, case.buffers)

        def sample(place: int, repeats: int) -> dict[str, float]:
            total = dict.fromkeys(PHASES, 0.0)
            for _ in range(repeats):
                seconds = contestants[place].step(position[place] % case.buffers)
                position[place] += 1
                for phase in PHASES:
                    total[phase] += seconds[phase]
            return {phase: total[phase] / repeats for phase in PHASES}

        fastest = min(sample(place, unit)["step"] for place in range(count))
        repeats = unit * max(1, round(least_sample / max(fastest, 1e-9) / unit))
        start = time.perf_counter()
        for index in range(most_rounds):
            seconds = time.perf_counter() - start
            if index >= 3 and seconds > (budget if index >= least_rounds else patience):
                break
            for place in order_of_round(count, index):
                for phase, value in sample(place, repeats).items():
                    timing.samples[contestants[place].name][phase].append(value)
    finally:
        gc.enable()
    return timing


def _starts(count: int, buffers: int) -> list[int]:
    """First buffers: neighbours start apart, so that nobody finds what another one just read."""
    return [place * buffers // count for place in range(count)]


def _first_steps(case: Case) -> tuple[Timing, list[Contestant]]:
    """Runs every contestant once, or one pass where those are whole; returns those that could."""
    timing, able = Timing(), []
    starts = _starts(len(case.contestants), case.buffers)
    for contestant, first in zip(case.contestants, starts, strict=True):
        start = time.perf_counter()
        try:
            for index in range(case.buffers) if case.whole_passes else [first]:
                contestant.step(index)
        except Exception as error:
            if not contestant.may_fail:
                raise
            message = str(error).strip() or "no message"
            timing.failed[contestant.name] = f"{type(error).__name__}: {message.splitlines()[0]}"
            continue
        timing.first[contestant.name] = time.perf_counter() - start
        timing.samples[contestant.name] = {phase: [] for phase in PHASES}
        able.append(contestant)
    return timing, able
