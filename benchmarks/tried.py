"""`python -m benchmarks.tried`: writes down what a change was to give and what it gave.

    python -m benchmarks.tried "what was changed" --predicted "what it should give, and why" \\
        --group lstm_ragged --before COMMIT --after COMMIT

Before and after are commits that hold result files, or folders of them (`benchmarks.run --out`).
The figures are computed from the two files, at the points that both have, and the entry is appended
to tried.json among the machine's results; the report draws its table from there. What was tried and
not kept belongs there too: `--after` is then the folder of its run, and `--note` says why.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from . import machine
from .groups import all_groups
from .machine import ROOT
from .run import RESULTS, write
from .tables import Result, geometric_mean, ratio

TRIED = "tried"


def load(where: str, group: str, name: str) -> Result:
    """The group's result in a folder, or in a commit's results of machine `name`."""
    if (folder := Path(where)).is_dir():
        text = (folder / f"{group}.json").read_text()
    else:
        path = f"{where}:benchmarks/results/{name}/{group}.json"
        done = subprocess.run(
            ["git", "-C", str(ROOT), "show", path], capture_output=True, text=True, check=True
        )
        text = done.stdout
    found: Result = json.loads(text)
    return found


def compare(before: Result, after: Result, only: dict[str, int]) -> dict[str, Any]:
    """Ratios to the baseline before and after, and their quotient, over the points of both that
    have the values in `only`."""
    ratios = [
        {
            json.dumps(e["point"]): ratio(result, e)["median"]
            for e in result["points"]
            if only.items() <= e["point"].items()
        }
        for result in (before, after)
    ]
    shared = [point for point in ratios[0] if point in ratios[1]]
    if not shared:
        raise ValueError(f"{after['group']}: no point was measured both before and after")
    gains = [ratios[1][point] / ratios[0][point] for point in shared]
    return {
        "points": len(shared),
        "ratio_before": geometric_mean(ratios[0][point] for point in shared),
        "ratio_after": geometric_mean(ratios[1][point] for point in shared),
        "gain": geometric_mean(gains),
        "least_gain": min(gains),
        "most_gain": max(gains),
        "foreign_cores": [before["foreign_cores"], after["foreign_cores"]],
    }


def axis_value(text: str) -> tuple[str, int]:
    axis, value = text.split("=")
    return axis, int(value)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tried", description=__doc__)
    parser.add_argument("what")
    parser.add_argument("--predicted", required=True)
    parser.add_argument("--group", required=True, choices=list(all_groups()))
    parser.add_argument("--before", required=True, help="commit, or folder of result files")
    parser.add_argument("--after", required=True, help="commit, or folder of result files")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        type=axis_value,
        metavar="AXIS=VALUE",
        help="points that the change concerns; may be repeated",
    )
    parser.add_argument("--note", default="", help="what came of it, where figures don't say")
    parser.add_argument("--out", type=Path, default=RESULTS / machine.slug())
    options = parser.parse_args(arguments)

    before, after = (
        load(where, options.group, options.out.name) for where in (options.before, options.after)
    )
    entry = {
        "what": options.what,
        "predicted": options.predicted,
        "title": all_groups()[options.group].title,
        "commits": [result["machine"]["commit"] for result in (before, after)],
        **compare(before, after, dict(options.only)),
        "note": options.note,
    }
    path = options.out / f"{TRIED}.json"
    entries = json.loads(path.read_text())["entries"] if path.exists() else []
    result = {"group": TRIED, "title": "What was tried", "entries": [*entries, entry]}
    print(write(result, path.parent))


if __name__ == "__main__":
    main()
