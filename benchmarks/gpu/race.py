"""How `benchmarks.gpu.points` times: by CUDA-graph replay, contestants in turns, cold buffers."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Entry = dict[str, Any]
Point = tuple[str, Entry, Callable[[], Entry]]  # group, what it is of, and its measurement


class Timed:
    """A contestant's calls, on one set of buffers each: they rotate, so that nothing is found in
    the cache by luck. Captured as one graph, unless `eager` says why it can't be."""

    def __init__(self, calls: list[Callable[[], Any]], eager: str = "") -> None:
        self.calls, self.eager = calls, eager
        self.graph: Any = None
        self.kept: list[Any] = []  # what a graph writes must stay allocated
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                calls[0]()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        if eager:
            return
        graph, main = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                self.kept += [call() for call in calls]
            self.graph = graph
        except RuntimeError as error:
            # The end of the capture fails too, and says nothing but that something did before.
            cause = error.__context__ or error
            self.kept.clear()
            self.eager = str(cause).partition("\n")[0] or type(cause).__name__
            torch.cuda.set_stream(main)  # an end that fails leaves the capture's
            FAILED_GRAPHS.append(graph)
            after_a_failed_capture()
        torch.cuda.synchronize()

    def round(self, by_graph: bool) -> float:
        """Seconds of a call: one pass over the buffers."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        if by_graph:
            self.graph.replay()
        else:
            for call in self.calls:
                call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / len(self.calls)


# The allocator goes on asking each graph whose capture failed whether a stream is its own.
FAILED_GRAPHS: list[Any] = []


class Spoilt(Exception):
    """Nothing more can be measured in this process."""


def after_a_failed_capture() -> None:
    """Makes the process fit for more. A capture that fails leaves torch's generator believing that
    it goes on (up to torch 2.11 at least), and every random number after it is an error; one that
    succeeds puts that right."""
    try:
        torch.cuda.synchronize()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros(1, device="cuda")
        torch.rand(1, device="cuda")
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise Spoilt(f"after a capture failed: {error}".partition("\n")[0]) from error


def medians(timed: dict[str, Timed], by_graph: bool, seconds: float) -> dict[str, float]:
    """Median seconds of each contestant's call, in turns until the time is up."""
    end = time.monotonic() + seconds
    found: dict[str, list[float]] = {name: [] for name in timed}
    names = list(timed)
    for rounds in range(50):
        if rounds >= 5 and time.monotonic() > end:
            break
        shift = rounds % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(timed[name].round(by_graph))
    return {name: statistics.median(values) for name, values in found.items()}


def race(
    contestants: dict[str, list[Callable[[], Any]]],
    seconds: float = 0.3,
    eager: dict[str, str] | None = None,
    both: bool = False,
) -> Entry:
    """Median seconds of each contestant: "seconds", all by graph replay, or where one of them can't
    be captured ("eager" says which, and why) all called from Python, so that like is compared with
    like. "graph_seconds" has those that can be captured, "eager_seconds", with `both`, all."""
    why = eager or {}
    timed = {name: Timed(calls, why.get(name, "")) for name, calls in contestants.items()}
    can = {name: t for name, t in timed.items() if t.graph is not None}
    by_graph = medians(can, True, seconds) if can else {}
    result: Entry = {
        "graph_seconds": by_graph,
        "eager": {name: t.eager for name, t in timed.items() if t.eager},
    }
    if both or len(can) < len(timed):
        result["eager_seconds"] = medians(timed, False, seconds / 2)
    result["seconds"] = by_graph if len(can) == len(timed) else result["eager_seconds"]
    return result


def buffers(bytes_each: int) -> int:
    """How many sets of buffers are together larger than twice the L2 cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(16, 2 * cache // max(bytes_each, 1) + 1))
