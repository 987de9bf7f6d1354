"""What the project set out to show on two cores, what was measured, and where it falls short.

Ratios are torch's time by ours, shares our speed by what is named. The report draws its main table
from here; no test asks for the goals.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .covering import Point
from .tables import (
    BUCKETED,
    SPEED,
    Result,
    baseline,
    binary_size,
    digits,
    geometric_mean,
    point_text,
    ratio,
    table,
    times,
)


@dataclass(frozen=True)
class Goal:
    """Of a group: the geometric mean of its ratios, every one of them, and a floor's speed."""

    mean: float | None
    every: float
    floor: tuple[str, float] | None = None  # a contestant, and the share of its speed, on average


GOALS = {
    "embedding_gradient": Goal(5, 1.5, ("sum", 0.8)),
    "lstm_training": Goal(2.2, 1.1),
    "lstm_inference": Goal(1.8, 1.0),
    "dense_training": Goal(None, 1.0),
    "dense_inference": Goal(None, 1.0),
    "lstm_ragged": Goal(5, 3),
    "lstm_cell_loop": Goal(3.5, 1.5),
    "linear_cross_entropy": Goal(1.6, 1.0),
    "seq2seq_training": Goal(3.5, 2.5),
}
RECURRENCE = 0.8  # of torch.mm's rate, at every point with H >= 256 and B >= 32
AVX2 = 0.55  # of AVX-512's speed
TRAINING = 2.0  # words a second of fastchar train, by each bucketed twin's
# Its work is to write, which the least that any implementation needs leaves out.
WITHOUT_CEILING = "embedding_gather"
NAMED_SIZES = (2**15, 2**19, 2**22, 2**26)  # bytes: of each kind of memory one
MOST_NAMED = 12  # points named one by one


@dataclass(frozen=True)
class Row:
    """Values by point, and what their geometric mean and each of them should be, if anything."""

    what: str
    values: list[tuple[Point, float]]
    mean: float | None
    every: float | None
    share: bool  # shown in percent
    ceilings: Sequence[float] = ()  # by point, what no implementation can pass (benchmarks.limits)

    def text(self, value: float) -> str:
        return f"{100 * value:.0f} %" if self.share else times(value)

    def short_text(self, value: float, goal: float) -> str:
        """Of a value that falls short: in more digits where it would read as the goal itself."""
        if self.text(value) != self.text(goal):
            return self.text(value)
        return f"{100 * value:.1f} %" if self.share else f"{value:.3f}×"

    @property
    def average(self) -> float:
        return geometric_mean(value for _, value in self.values)

    @property
    def worst(self) -> float:
        return min(value for _, value in self.values)

    @property
    def ceiling(self) -> float | None:
        return geometric_mean(self.ceilings) if self.ceilings else None

    @property
    def goals(self) -> list[tuple[float, float]]:
        """(measured, goal), for the mean and for every point."""
        both = ((self.average, self.mean), (self.worst, self.every))
        return [(value, goal) for value, goal in both if goal is not None]

    @property
    def misses(self) -> list[tuple[Point, float]]:
        """Points below what every one should reach, the worst first."""
        bound = self.every or 0.0
        return sorted(((p, v) for p, v in self.values if v < bound), key=lambda pair: pair[1])

    def cells(self) -> list[str]:
        return [
            self.what,
            *self._judged(self.average, self.mean),
            *self._judged(self.worst, self.every),
            f"{len(self.misses)} of {len(self.values)}" if self.every else "",
            "" if self.ceiling is None else self.text(self.ceiling),
        ]

    def _judged(self, value: float, goal: float | None) -> list[str]:
        if goal is None:
            return [self.text(value), ""]
        wanted = f"{100 * goal:.0f} %" if self.share else f"{goal:g}×"
        return [
            self.text(value) if value >= goal else f"{self.short_text(value, goal)} ✗",
            f"≥ {wanted}",
        ]


def group_rows(result: Result) -> Iterator[Row]:
    """One group, with its goals if it has some."""
    goal = GOALS.get(result["group"])
    mean, every = (goal.mean, goal.every) if goal else (None, None)
    ratios = [(entry["point"], ratio(result, entry)["median"]) for entry in result["points"]]
    yield Row(result["title"], ratios, mean, every, False, ceilings(result))
    if goal and goal.floor:
        name, share = goal.floor
        phase = result["phase"]
        shares = [(e["point"], e["ratios"][name][phase]["median"]) for e in result["points"]]
        yield Row(f"{result['title']}, of {name}'s speed", shares, share, None, share=True)


def ceilings(result: Result) -> list[float]:
    """The baseline's time by the least that any implementation needs, where that was counted."""
    if result["group"] == WITHOUT_CEILING:
        return []
    phase = result["phase"]
    return [
        entry["seconds"][baseline(result, entry)][phase]["median"] / entry["least_seconds"]
        for entry in result["points"]
        if "least_seconds" in entry
    ]


def recurrence_rows(result: Result) -> Iterator[Row]:
    """The recurrent products' rate by torch.mm's, by part."""
    for part in result["points"][0]["parts"]:
        values = [(e["point"], e["parts"][part]["share"]["median"]) for e in result["points"]]
        what = f"Recurrent products, {part}, of torch.mm's rate"
        yield Row(what, values, None, RECURRENCE, share=True)


def isa_rows(result: Result) -> Iterator[Row]:
    """AVX2 by AVX-512, where both are there."""
    if result["isa"] == "avx512":
        values = [(e["point"], e["speed"]["avx2"]["median"]) for e in result["points"]]
        yield Row("AVX2, of AVX-512's speed", values, None, AVX2, share=True)


def speed_rows(result: Result) -> Iterator[Row]:
    """`fastchar train` against each of the twins that bucket their batches."""
    for name, spread in result["ratios"].items():
        if name.endswith(f", {BUCKETED}"):
            what = f"{result['ours']}, against {name}"
            yield Row(what, [({}, spread["median"])], TRAINING, None, share=False)


def all_rows(groups: Iterable[Result], others: dict[str, Result]) -> list[Row]:
    """Every group and every goal that has a result."""
    rows = [row for result in groups for row in group_rows(result)]
    makers = ((SPEED, speed_rows), ("recurrence", recurrence_rows), ("isas", isa_rows))
    for name, made in makers:
        if name in others:
            rows += made(others[name])
    return rows


def goals_table(rows: Iterable[Row]) -> str:
    """Goal and measurement side by side; ✗ marks what falls short."""
    head = ("", "mean", "goal", "worst point", "goal", "points short of it", "ceiling")
    return table(head, (row.cells() for row in rows), right=1)


def reached_text(rows: Iterable[Row]) -> str:
    """How many goals are reached, and which of the others the machine itself rules out."""
    rows = list(rows)
    judged = [value >= goal for row in rows for value, goal in row.goals]
    beyond = [
        f"{row.what} ({goal:g}×, ceiling {times(ceiling)})"
        for row in rows
        if (goal := row.mean) is not None and (ceiling := row.ceiling) is not None
        if ceiling < goal
    ]
    text = f"{sum(judged)} of {len(judged)} goals are reached."
    if beyond:
        text += f" Above the ceiling, so out of anyone's reach here: {'; '.join(beyond)}."
    return text


def limits_text(results: Iterable[Result]) -> str:
    """What the ceilings rest on, and where they lie above torch.mm's own rate; or nothing."""
    found = [(r["limits"], r["roof"]) for r in results if r.get("limits")]
    if not found:
        return ""
    peak = max(limits["flops_per_second"] for limits, _ in found)
    product = max(roof["flops_per_second"] for _, roof in found)
    reads = {
        int(size): max(limits["bytes_per_second"][size] for limits, _ in found)
        for size in found[0][0]["bytes_per_second"]
    }
    named = ", ".join(
        f"{rate / 1e9:.0f} GB/s of {binary_size(size)} a thread"
        for size, rate in reads.items()
        if size in NAMED_SIZES
    )
    return (
        f"The ceiling is the geometric mean of the baseline's time by the least that any "
        f"implementation needs (`benchmarks/limits.py`): {peak / 1e9:.0f} GFLOP/s of multiply-adds "
        f"in registers, and reads again and again of {named}. A large torch.mm reached "
        f"{100 * product / peak:.0f} % of the former."
    )


def misses_text(rows: Iterable[Row]) -> str:
    """The points that fall short, by goal, the worst first."""
    lines = []
    for row in rows:
        if missed := row.misses:
            bound = row.every or 0.0
            named = "; ".join(
                f"{point_text(p)}: {row.short_text(v, bound)}" for p, v in missed[:MOST_NAMED]
            )
            rest = len(missed) - MOST_NAMED
            more = f"; and {rest} more" if rest > 0 else ""
            lines.append(f"- {row.what}: {named}{more}")
    if not lines:
        return "Every point reaches what every point should."
    return "\n".join(["Short of what every point should reach, the worst first:", "", *lines])


def accuracy_text(result: dict[str, Any]) -> str:
    """One line on the rule that every point is judged by."""
    broken = [g["title"] for g in result["groups"] if g["broken"]]
    tensors = sum(g["tensors"] for g in result["groups"])
    worst = digits(max(g["worst"] for g in result["groups"]))
    kept = f"broken by {', '.join(broken)}" if broken else "kept by every group"
    return (
        f"Accuracy (an error against float64 of at most twice torch's, tests/error_rule.py): {kept}"
        f"; the worst of {tensors} tensors has {worst} times torch's error."
    )
