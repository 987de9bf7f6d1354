"""`python -m benchmarks.accuracy`: outputs and gradients at every grid point, judged by float64.

At each point the same numbers go through torch's plain modules and through fastchar in float32,
and through torch's in float64. The rule is the tests' own (`tests/error_rule.py`): an error of at
most twice torch's, over the points of a group as a sample of it.
"""

import sys
from typing import Any

import torch
from torch import Tensor

from tests.error_rule import Errors, Sample

from . import machine
from .covering import Point
from .grids import GRIDS
from .groups import OURS, Group, all_groups
from .inputs import default_dtype
from .progress import Progress, weight
from .tables import point_text

ACCURACY = "accuracy"


def results(group: Group, point: Point, dtype: torch.dtype, *names: str) -> list[list[Tensor]]:
    """What the named contestants compute at the point, from the same numbers in every dtype."""
    with default_dtype(dtype):
        torch.manual_seed(0)
        contestants = {c.name: c for c in group.build(point).contestants}
        return [contestants[name].results() for name in names]


def tensor_names(group: Group, count: int) -> list[str]:
    """The output, then gradients by number."""
    first = [] if group.phase == "backward" else ["output"]
    return [*first, *(f"gradient {i}" for i in range(1, count - len(first) + 1))]


def judge(group: Group, point: Point, sample: Sample) -> dict[str, Any]:
    """One point: the worst error by torch's, of which tensor; every tensor goes into the sample."""
    theirs, ours = results(group, point, torch.float32, group.baselines[0], OURS)
    (exact,) = results(group, point, torch.float64, group.baselines[0])
    if group.phase == "backward":  # the lookup copies: there is no error to compare
        theirs, ours, exact = theirs[1:], ours[1:], exact[1:]
    names = tensor_names(group, len(exact))
    ratios = {}
    for name, *tensors in zip(names, ours, theirs, exact, strict=True):
        sample.add(name, *tensors)
        ratios[name] = Errors(name, *tensors).ratio()
    worst = max(ratios, key=ratios.__getitem__)
    return {"point": point, "worst": ratios[worst], "of": worst, "tensors": len(ratios)}


def judge_group(group: Group, grid: str, progress: Progress) -> dict[str, Any]:
    """Every point of the grid, and whether the sample as a whole keeps the rule."""
    sample, points = Sample(), []
    broken = ""
    for point in GRIDS[group.name][grid]:
        try:
            points.append(judge(group, point, sample))
        except AssertionError as error:  # a tensor far off, which no sample can hold
            broken = broken or f"{point_text(point)}: {error}"
            continue
        finally:
            progress.advance(
                weight(group, point, 0.0), f"{ACCURACY} {group.name} {point_text(point)}"
            )
    if not broken:
        try:
            sample.check()
        except AssertionError as error:
            broken = str(error)
    ratios = [ratio for ratio, _ in sample.ratios]
    return {
        "group": group.name,
        "title": group.title,
        "tensors": len(ratios),
        "over": sum(ratio > 2 for ratio in ratios),
        "worst": max(ratios, default=0.0),
        "broken": broken,
        "points": points,
    }


def measure(grid: str) -> dict[str, Any]:
    """All groups but the lookup, which copies; returns the result file's content."""
    groups = [g for g in all_groups().values() if g.name != "embedding_gather"]
    progress = Progress(sum(weight(g, p, 0.0) for g in groups for p in GRIDS[g.name][grid]))
    return {
        "group": ACCURACY,
        "title": "Accuracy",
        "grid": grid,
        "machine": machine.describe(),
        "foreign_cores": None,
        "groups": [judge_group(group, grid, progress) for group in groups],
    }


if __name__ == "__main__":
    from .run import main

    main(["--group", ACCURACY, *sys.argv[1:]])
