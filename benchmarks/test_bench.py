"""Each group at each grid point: contestants side by side in pytest-benchmark's tables.

`pytest benchmarks/ --grid full -k embedding`. For ratios to quote use `python -m benchmarks.run`,
which interleaves the contestants; these run one after the other.
"""

from itertools import count
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .covering import Point
from .groups import Group
from .tables import point_text

# Seconds a contestant is measured for, set-up of its rounds included.
SECONDS = 0.3


def test_headline_phase(
    benchmark: BenchmarkFixture, group: Group, point: Point, contestant_name: str
) -> None:
    """Times one contestant's headline phase; a backward's forward runs untimed before it."""
    torch.manual_seed(0)
    case = group.build(point)
    contestant = next(c for c in case.contestants if c.name == contestant_name)
    benchmark.group = f"{group.title} ({point_text(point)})"
    benchmark.name = contestant_name
    buffers = (index % case.buffers for index in count())

    def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
        index = next(buffers)
        if group.phase == "backward":
            for parameter in contestant.parameters:
                parameter.grad = None
            return (contestant.forward(index), index), {}
        return (index,), {}

    phases = {
        "forward": contestant.forward,
        "backward": contestant.backward,
        "step": contestant.step,
    }
    contestant.step(0)
    seconds = contestant.step(0)["step"]
    rounds = max(3, min(200, int(SECONDS / seconds)))
    benchmark.pedantic(phases[group.phase], setup=prepare, rounds=rounds)
