"""The instruction sets that this machine has, against each other: the same contestant, in turns.

`fastchar._C.set_isa` switches the kernels in the running process, so the sets are interleaved as
all contestants are. What torch computes inside a step (the fold's table, an input projection) keeps
torch's own instruction set, whatever ours is.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from importlib import import_module
from typing import Any

import torch

from . import machine
from .grids import GRIDS
from .groups import OURS, Group, all_groups
from .interleave import Case, Contestant
from .interleave import measure as interleave
from .progress import Progress
from .tables import point_text

ISAS = "isas"
library: Any = import_module("fastchar._C")
GROUPS = (
    "embedding_gradient",
    "lstm_training",
    "lstm_inference",
    "lstm_ragged",
    "lstm_cell_loop",
    "generation",
    "linear_cross_entropy",
)
BUDGET = {"quick": 0.5, "full": 1.5}


def under(isa: str, ours: Contestant) -> Contestant:
    """The contestant on the kernels of `isa`; its backward follows under the same."""

    def switched(forward: Callable[[int], Any]) -> Callable[[int], Any]:
        @wraps(forward)
        def call(index: int) -> Any:
            library.set_isa(isa)
            return forward(index)

        return call

    return replace(ours, name=isa, forward=switched(ours.forward))


def measure_point(group: Group, point: dict[str, int], budget: float) -> dict[str, Any]:
    """Seconds of the headline phase by set, and the speed of each by that of the default one."""
    chosen, available = library.isa(), library.available_isas()
    torch.manual_seed(0)
    case = group.build(point)
    ours = next(c for c in case.contestants if c.name == OURS)
    try:
        contestants = [under(isa, ours) for isa in available]
        timing = interleave(Case(contestants, case.buffers), budget=budget)
    finally:
        library.set_isa(chosen)
    return {
        "group": group.name,
        "title": group.title,
        "point": point,
        "rounds": timing.rounds,
        "seconds": {isa: asdict(timing.spread(isa, group.phase)) for isa in available},
        "speed": {isa: asdict(timing.ratio(chosen, isa, group.phase)) for isa in available},
    }


def measure(grid: str) -> dict[str, Any]:
    """The quick grid's points in both grids: they hold the sizes that matter."""
    groups = all_groups()
    record = machine.Record(ISAS, "Instruction sets", grid=grid)
    cases = [(groups[name], point) for name in GROUPS for point in GRIDS[name]["quick"]]
    progress = Progress(len(cases))
    points: list[dict[str, Any]] = []
    for group, point in cases:
        points.append(measure_point(group, point, BUDGET[grid]))
        shares = (f"{i} {s['median']:.2f}" for i, s in points[-1]["speed"].items())
        progress.advance(1, f"{ISAS} {group.name} {point_text(point)} {', '.join(shares)}")
    return record.result(isa=library.isa(), points=points)
