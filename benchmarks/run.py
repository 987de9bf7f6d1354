"""`python -m benchmarks.run`: measures the groups and writes results/<machine>/<group>.json.

Run it on an idle machine: a result records how many cores other processes kept busy, and a warning
says when that was more than a twentieth of one.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from . import machine
from .grids import GRIDS, Point
from .groups import OURS, Group, all_groups
from .interleave import PHASES, Timing, measure
from .roofline import Roof
from .tables import SPEED

RESULTS = Path(__file__).parent / "results"
# Seconds a point is interleaved for, if five rounds do not take longer.
BUDGET = {"quick": 1.0, "full": 1.5}


def point_name(point: Point) -> str:
    return " ".join(f"{axis}={value}" for axis, value in point.items())


def summarise(group: Group, point: Point, timing: Timing, roof: Roof) -> dict[str, Any]:
    """One grid point as JSON: spreads in seconds, and every contestant's ratio to ours."""
    names = list(timing.samples)
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
    }
    seconds = timing.spread(OURS, group.phase).median
    summary["roofline"] = roof.position(group.work(point), seconds)
    return summary


def run_group(group: Group, grid: str) -> dict[str, Any]:
    """Measures one group at every point of the grid; returns the result file's content."""
    points = GRIDS[group.name][grid]
    described = machine.describe()
    contention, start = machine.Contention(), time.perf_counter()
    roof = Roof.measure()
    timings = []
    for number, point in enumerate(points, 1):
        torch.manual_seed(number)
        timing = measure(group.build(point), budget=BUDGET[grid])
        timings.append(timing)
        baseline = min(group.baselines, key=lambda name: timing.spread(name, group.phase).median)
        ratio = timing.ratio(baseline, OURS, group.phase).median
        line = f"{group.name} {number}/{len(points)} {point_name(point)}"
        print(f"{line:<72} {ratio:6.2f} times {baseline}", flush=True)
    roof = roof.best(Roof.measure())
    return {
        "group": group.name,
        "title": group.title,
        "phase": group.phase,
        "baselines": list(group.baselines),
        "ours": OURS,
        "grid": grid,
        "machine": described,
        "foreign_cores": contention.foreign_cores(),
        "duration_seconds": time.perf_counter() - start,
        "roof": asdict(roof),
        "points": [
            summarise(group, point, timing, roof)
            for point, timing in zip(points, timings, strict=True)
        ],
    }


def write(result: dict[str, Any], folder: Path) -> Path:
    """Writes the result beside its place, then renames: a file is whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['group']}.json"
    beside = path.with_suffix(".json.new")
    beside.write_text(json.dumps(rounded(result), indent=1) + "\n")
    os.replace(beside, path)
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
        "--group", action="append", choices=[*groups, SPEED], help="only this one; may be repeated"
    )
    parser.add_argument("--grid", choices=list(BUDGET), default="quick")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / machine.slug(), help="folder of the JSON files"
    )
    options = parser.parse_args(arguments)
    for name in options.group or [*groups, SPEED]:
        if name == SPEED:
            # Imported only here: Lightning is optional, and slow to import.
            from . import train_speed

            result = train_speed.measure(options.grid)
        else:
            result = run_group(groups[name], options.grid)
        warn_of_contention(result)
        print(write(result, options.out))


if __name__ == "__main__":
    main()
