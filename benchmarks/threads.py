"""`python -m benchmarks.threads`: the same step on 1, 2, ... threads, and what the model predicts.

A process for each count of threads, started with OMP_NUM_THREADS; they take turns, a sample each a
round, so that a speed-up compares the same moment. While one measures, the others sleep.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import ceil
from multiprocessing.connection import Connection
from typing import Any

import torch

import fastchar

from . import machine, scaling
from .covering import Point
from .grids import GRIDS, SYMBOLS
from .groups import OURS, all_groups
from .interleave import PHASES, Case, Contestant, Timing, order_of_round
from .progress import Progress
from .roofline import Roof
from .scaling import Costs
from .tables import point_text

THREADS = "threads"
GROUPS = (
    "embedding_gather",
    "embedding_gradient",
    "lstm_training",
    "lstm_inference",
    "lstm_ragged",
    "lstm_cell_loop",
    "linear_cross_entropy",
)
ROUNDS = {"quick": 7, "full": 15}
ROOF = {"side": 2048, "copy_bytes": 2**28}
LEAST_SAMPLE = 5e-3  # seconds: a turn begins with threads that have slept

# Points with next to nothing to do: what a call costs whatever its size.
NOTHING: dict[str, Point] = {
    "embedding_gather": {"V": 64, "E": 1, "N": 1},
    "embedding_gradient": {"V": 64, "E": 1, "N": 1},
    "lstm_training": {"H": 1, "E": 1, "B": 1, "T": 1},
    "lstm_inference": {"H": 1, "E": 1, "B": 1, "T": 1},
    "lstm_ragged": {"H": 1, "E": 1, "B": 1, "T": 4, "L": 1, "bidirectional": 1},
    "lstm_cell_loop": {"H": 1, "E": 1, "B": 1, "T": 20},
    "linear_cross_entropy": {"V": 1, "H": 1, "N": 1},
}
WAITS = "waits"  # in place of a group's name: one sequence, whose steps wait for each other


def waits_point(members: int) -> Point:
    """A sequence just long enough in H for `members` threads to share its steps."""
    return {"H": 96 * ceil(members**0.5), "T": 200}


def _waits(point: Point) -> Case:
    H, T = point["H"], point["T"]
    gates, ids = torch.randn(SYMBOLS, 4 * H), torch.randint(SYMBOLS, (T, 1))
    w_hh, state = torch.randn(4 * H, H) / H**0.5, torch.zeros(1, H)
    sequence = torch.ops.fastchar.lstm_sequence

    def forward(_: int) -> Any:
        return sequence(gates, ids, w_hh, state, state, None, False, False)

    return Case([Contestant(OURS, forward)])


def work(connection: Connection, count: int) -> None:
    """A process of `count` threads: answers every request with what it measured, until None."""
    torch.set_num_threads(count)
    groups = all_groups()
    contestant, buffers, position, phase = Contestant(OURS, lambda _: None), 1, 0, "forward"
    while (request := connection.recv()) is not None:
        name, argument = request
        if name == "roof":
            connection.send(asdict(Roof.measure(**argument)))
        elif name == "sample":
            total = 0.0
            for _ in range(argument + 1):
                seconds = contestant.step(position % buffers)[phase]
                total, position = total + seconds, position + 1
                if _ == 0:  # wakes the threads
                    total = 0.0
            connection.send(total / argument)
        else:
            torch.manual_seed(0)
            case = _waits(argument) if name == WAITS else groups[name].build(argument)
            phase = "forward" if name == WAITS else groups[name].phase
            contestant = next(c for c in case.contestants if c.name == OURS)
            buffers, position = case.buffers, 1
            contestant.step(0)
            connection.send(contestant.step(0)[phase])


@contextmanager
def workers(counts: list[int]) -> Iterator[dict[int, Connection]]:
    """A process for each count of threads, and the way to ask it."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    before = os.environ.get("OMP_NUM_THREADS")
    for count in counts:
        pipes[count], theirs = context.Pipe()
        os.environ["OMP_NUM_THREADS"] = str(count)
        processes.append(context.Process(target=work, args=(theirs, count), daemon=True))
        processes[-1].start()
        theirs.close()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before
    try:
        yield pipes
        for pipe in pipes.values():
            pipe.send(None)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()


def ask(pipe: Connection, name: str, argument: Any = None) -> Any:
    pipe.send((name, argument))
    return pipe.recv()


def take_turns(pipes: dict[int, Connection], name: str, point: Point, rounds: int) -> Timing:
    """Samples of one point by count of threads (as a string), a turn each a round."""
    slowest = max(ask(pipe, name, point) for pipe in pipes.values())
    repeats = max(1, round(LEAST_SAMPLE / slowest))
    counts = list(pipes)
    timing = Timing({str(count): {phase: [] for phase in PHASES} for count in counts})
    for index in range(rounds):
        for place in order_of_round(len(counts), index):
            seconds = ask(pipes[counts[place]], "sample", repeats)
            timing.samples[str(counts[place])]["step"].append(seconds)
    return timing


def measure_wait(pipes: dict[int, Connection], members: int, rounds: int) -> float:
    """Seconds that a team of `members` loses a step, beyond its share of one thread's time.

    From the fastest samples: what else runs on the machine can only add to a wait.
    """
    point = waits_point(members)
    both = {count: pipes[count] for count in (1, members)}
    timing = take_turns(both, WAITS, point, rounds)
    one, many = (min(timing.samples[str(count)]["step"]) for count in (1, members))
    return max(0.0, (many - one / members) / point["T"])


def counts_of(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    return sorted({2**k for k in range(cores.bit_length()) if 2**k <= cores} | {cores})


def measure(grid: str) -> dict[str, Any]:
    """Every group's quick points at every count of threads; returns the result file's content."""
    record, rounds = machine.Record(THREADS, "Threads", grid=grid), ROUNDS[grid]
    isa = fastchar.backends()["cpu"]["isa"]
    groups = all_groups()
    cases = [(name, point) for name in GROUPS for point in GRIDS[name]["quick"]]
    progress = Progress(len(cases))
    entries: list[dict[str, Any]] = []
    with workers(counts_of(machine.cores())) as pipes:
        roofs = {str(count): ask(pipe, "roof", ROOF) for count, pipe in pipes.items()}
        alone = {1: pipes[1]}
        fixed = {n: take_turns(alone, n, NOTHING[n], rounds).spread("1", "step") for n in GROUPS}
        bandwidth = {count: roofs[str(count)]["bytes_per_second"] for count in pipes}
        wait = {count: measure_wait(pipes, count, rounds) for count in pipes if count > 1}
        for name, point in cases:
            timing = take_turns(pipes, name, point, rounds)
            one = timing.spread("1", "step").median
            costs = Costs(fixed[name].median, wait, bandwidth)
            entries.append(
                {
                    "group": name,
                    "title": groups[name].title,
                    "point": point,
                    "seconds": {n: asdict(timing.spread(n, "step")) for n in timing.samples},
                    "speedup": {n: asdict(timing.ratio("1", n, "step")) for n in timing.samples},
                    "predicted": {
                        str(n): one / scaling.predicted(groups[name], point, one, n, costs, isa)
                        for n in wait
                    },
                }
            )
            ratios = (f"{n}: {r['median']:.2f}" for n, r in entries[-1]["speedup"].items())
            progress.advance(1, f"{THREADS} {name} {point_text(point)} {', '.join(ratios)}")
    return record.result(
        roofs=roofs,
        fixed_seconds={name: spread.median for name, spread in fixed.items()},
        wait_seconds={str(count): seconds for count, seconds in wait.items()},
        points=entries,
    )


if __name__ == "__main__":
    from .run import main

    main(["--group", THREADS, *sys.argv[1:]])
