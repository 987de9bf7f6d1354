"""`python -m benchmarks.run`: measures the groups and writes results/<machine>/<group>.json.

Run it on an idle machine: a result records how many cores other processes kept busy, and a warning
says when that was more than a twentieth of one.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import fastchar
from fastchar.files import write_beside

from . import machine
from .covering import Point
from .grids import GRIDS, takes_part
from .groups import OURS, Group, all_groups
from .interleave import PHASES, Case, Timing, measure
from .limits import Limits
from .progress import Progress, weight
from .roofline import Roof
from .tables import point_text

RESULTS = Path(__file__).parent / "results"
# Seconds a point is interleaved for, if five rounds do not take longer (`interleave.measure`).
BUDGET = {"quick": 1.0, "full": 1.2}
# What is measured in another way than a group of contestants: modules with a `measure(grid)`.
OTHERS = ("train_speed", "recurrence", "isas", "accuracy", "compiled", "threads")
NATIVE = ("recurrence", "isas", "compiled", "threads")  # of these, what needs the kernels


def summarise(
    group: Group, point: Point, timing: Timing, roof: Roof, limits: Limits | None
) -> dict[str, Any]:
    """One grid point as JSON: spreads in seconds, and every contestant's ratio to ours."""
    names = [name for name in group.contestants if name in timing.samples]
    phases = [phase for phase in PHASES if any(timing.samples[OURS][phase])]
    summary: dict[str, Any] = {
        "point": point,
        "rounds": timing.rounds,
        "seconds": {n: {p: asdict(timing.spread(n, p)) for p in phases} for n in names},
        "ratios": {
            n: {p: asdict(timing.ratio(n, OURS, p)) for p in phases if any(timing.samples[n][p])}
            for n in names
            if n != OURS
        },
        "first_step_seconds": timing.first,
        "failed": timing.failed,
    }
    seconds = timing.spread(OURS, group.phase).median
    work = group.work(point)
    summary["roofline"] = roof.position(work, seconds)
    if limits is not None:
        summary["least_seconds"] = limits.seconds(work)
    return summary


def build(group: Group, point: Point) -> Case:
    """The group's case with the contestants that take part at this point."""
    torch.manual_seed(0)
    case = group.build(point)
    case.contestants = [c for c in case.contestants if takes_part(group.name, c.name, point)]
    return case


def run_group(group: Group, grid: str, progress: Progress) -> dict[str, Any]:
    """Measures one group at every point of the grid; returns the result file's content."""
    points = GRIDS[group.name][grid]
    record, start = machine.Record(group.name, group.title, grid=grid), time.perf_counter()
    roof, limits = Roof.measure(), Limits.measure()
    timings = []
    for point in points:
        timing = measure(build(group, point), budget=BUDGET[grid])
        timings.append(timing)
        rivals = [name for name in group.baselines if name in timing.samples]
        baseline = min(rivals, key=lambda name: timing.spread(name, group.phase).median)
        ratio = timing.ratio(baseline, OURS, group.phase).median
        line = f"{group.name} {point_text(point)}"
        failed = "".join(f"; {name}: {error}" for name, error in timing.failed.items())
        progress.advance(
            weight(group, point, BUDGET[grid]), f"{line:<66} {ratio:6.2f} times {baseline}{failed}"
        )
    roof = roof.best(Roof.measure())
    if limits is not None and (again := Limits.measure()) is not None:
        limits = limits.best(again)
    return record.result(
        phase=group.phase,
        baselines=list(group.baselines),
        floors=list(group.floors),
        ours=OURS,
        duration_seconds=time.perf_counter() - start,
        roof=asdict(roof),
        limits=None if limits is None else asdict(limits),
        points=[
            summarise(group, point, timing, roof, limits)
            for point, timing in zip(points, timings, strict=True)
        ],
    )


def write(result: dict[str, Any], folder: Path) -> Path:
    """Writes the result's file, whole or not at all; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['group']}.json"
    with write_beside(path) as stream:
        stream.write(json.dumps(rounded(result), indent=1) + "\n")
    return path


def rounded(value: Any) -> Any:
    """Floats to five significant digits, which is more than any timing has."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def warn_of_contention(result: dict[str, Any]) -> None:
    foreign = result["foreign_cores"]
    if foreign is not None and foreign > 0.05:
        print(
            f"warning: other processes used {foreign:.2f} cores during {result['group']}; "
            "run it again on an idle machine",
            file=sys.stderr,
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    groups = all_groups()
    parser.add_argument(
        "--group", action="append", choices=[*groups, *OTHERS], help="only this; may be repeated"
    )
    parser.add_argument("--grid", choices=list(BUDGET), default="quick")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / machine.slug(), help="folder of the JSON files"
    )
    options = parser.parse_args(arguments)
    native = fastchar.backends()["backend"] == "native"
    chosen = options.group or [*groups, *(name for name in OTHERS if native or name not in NATIVE)]
    cases = [(groups[n], p) for n in chosen if n in groups for p in GRIDS[n][options.grid]]
    progress = Progress(sum(weight(group, point, BUDGET[options.grid]) for group, point in cases))
    for name in chosen:
        if name in groups:
            result = run_group(groups[name], options.grid, progress)
        else:
            # Imported only here: Lightning is optional, and slow to import.
            result = import_module(f".{name}", __package__).measure(options.grid)
        warn_of_contention(result)
        print(write(result, options.out))


if __name__ == "__main__":
    main()
