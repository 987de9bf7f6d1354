"""What the project set out to show on a GPU, and what `benchmarks.gpu.check` measured of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.tables import geometric_mean, table

Entry = dict[str, Any]
PLAIN = {"layers": 1, "bidirectional": False, "ragged": False}


def by_graph(entry: Entry) -> dict[str, float]:
    """Seconds by graph replay where fastchar's call can be captured, whatever the other can."""
    seconds: dict[str, float] = entry.get("graph_seconds", {})
    return seconds if "fastchar" in seconds else entry["seconds"]


def ratio(seconds: dict[str, float]) -> float:
    return seconds["torch"] / seconds["fastchar"]


def step_microseconds(entry: Entry) -> float:
    """Of fastchar's forward."""
    return by_graph(entry["forward"])["fastchar"] / float(entry["point"]["T"]) * 1e6


def goals_table(groups: Entry) -> str:
    """A line a goal, of the points that have a result; nothing where none has."""
    head = ("goal", "points", "measured", "reached")
    rows = list(_goals(groups))
    return table(head, rows, right=1) if rows else ""


def _goals(groups: Entry) -> Iterator[tuple[str, str, str, str]]:
    def line(
        what: str,
        goal: float,
        values: Iterable[float],
        summary: Callable[[list[float]], float],
        text: str,
    ) -> Iterator[tuple[str, str, str, str]]:
        found = list(values)
        if found:
            measured = summary(found)
            reached = measured <= goal if summary is max else measured >= goal
            title = f"{what} {'<=' if summary is max else '>='} {text.format(goal)}"
            yield title, str(len(found)), text.format(measured), "yes" if reached else "no"

    def measured(name: str) -> list[Entry]:
        return [entry for entry in groups.get(name, []) if "error" not in entry]

    gradients = measured("embedding_backward")
    ratios = [ratio(entry["seconds"]) for entry in gradients]
    yield from line("embedding gradient, mean ratio", 5, ratios, geometric_mean, "{:.2f}×")
    large = [e for e in gradients if e["point"]["N"] == 1_000_000 and "bandwidth" in e]
    shares = [100 * entry["bandwidth"] for entry in large]
    yield from line("embedding gradient, 1e6 ids, of copy bandwidth", 70, shares, min, "{:.0f} %")
    ratios = [ratio(entry["training"]["seconds"]) for entry in measured("lstm")]
    yield from line(
        "embedding + LSTM, training, mean ratio", 1.5, ratios, geometric_mean, "{:.2f}×"
    )
    yield from line("embedding + LSTM, training, every ratio", 0.95, ratios, min, "{:.2f}×")
    goal = {"H": 512, "dtype": "bf16", **PLAIN}
    steps = [
        step_microseconds(entry)
        for entry in measured("lstm")
        if entry["point"]["B"] <= 128 and goal.items() <= entry["point"].items()
    ]
    yield from line("H 512, B <= 128, bf16, a step of forward", 1.5, steps, max, "{:.2f} us")
