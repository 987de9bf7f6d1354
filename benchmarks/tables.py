"""From result files to numbers and Markdown: everything the report says is computed here."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = dict[str, Any]

# The result that is no group of the grid: whole training runs.
SPEED = "train_speed"
BUCKETED = "bucketed"  # how the names of its trainers end whose batches are alike in length
# Nor this: examples/third_party.py.
THIRD_PARTY = "third_party"


@dataclass(frozen=True)
class Verdict:
    """A group in one line: ratios of the faster baseline's time to ours, over the grid."""

    title: str
    points: int
    geometric_mean: float
    worst: float
    worst_point: dict[str, int]
    best: float


def load(folder: Path) -> dict[str, Result]:
    """The result files of one machine by group."""
    results = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {result["group"]: result for result in results}


def baseline(result: Result, entry: dict[str, Any]) -> str:
    """The baseline that is fastest at this point, of those that were measured there."""
    phase, seconds = result["phase"], entry["seconds"]
    there = [name for name in result["baselines"] if name in seconds]
    return min(there, key=lambda name: seconds[name][phase]["median"])


def ratio(result: Result, entry: dict[str, Any]) -> dict[str, float]:
    """median, q1, q3 of the headline ratio at this point."""
    spread: dict[str, float] = entry["ratios"][baseline(result, entry)][result["phase"]]
    return spread


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def verdict(result: Result) -> Verdict:
    ratios = [ratio(result, entry)["median"] for entry in result["points"]]
    worst = min(range(len(ratios)), key=ratios.__getitem__)
    return Verdict(
        result["title"],
        len(ratios),
        geometric_mean(ratios),
        ratios[worst],
        result["points"][worst]["point"],
        max(ratios),
    )


def point_text(point: dict[str, int]) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in point.items())


def duration(seconds: float) -> str:
    """Three digits in the unit that fits: "41.2 us", "3.05 ms", "1.20 s"."""
    seconds = float(f"{seconds:.2e}")  # 999.9 us is 1.00 ms
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{digits(seconds / scale)} {unit}"
    raise AssertionError


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    value = float(f"{value:.2e}")  # 9.999 is 10.0
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(value: float) -> str:
    return digits(value) + "×"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> str:
    """A Markdown table whose columns from `right` on are aligned to the right."""
    rule = ["---"] * right + ["---:"] * (len(head) - right)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def summary_table(results: Iterable[Result]) -> str:
    """One line a group: geometric mean, worst point, best."""
    verdicts = [verdict(result) for result in results]
    return table(
        ("", "points", "geometric mean", "worst", "at", "best"),
        (
            (
                v.title,
                str(v.points),
                f"**{times(v.geometric_mean)}**",
                times(v.worst),
                point_text(v.worst_point),
                times(v.best),
            )
            for v in verdicts
        ),
        right=1,
    )


def group_table(result: Result) -> str:
    """Every point of one group: each contestant's median time, ratios and share of the roof.

    A contestant that took no part at a point has a dash there, one that failed "failed".
    """
    phase, ours, floors = result["phase"], result["ours"], result["floors"]
    first = result["points"][0]
    others = [n for n in dict.fromkeys(contestants(result)) if n != ours]
    axes, names = list(first["point"]), [*others, ours]
    phases = [p for p in first["seconds"][ours] if p not in (phase, "step")]
    parts = phases if phase == "step" and len(phases) > 1 else []
    head = [
        *axes,
        *(f"{name}" for name in names),
        *(f"of {n}'s speed" if n in floors else f"{n} / {ours}" for n in others),
        *(f"{p} alone" for p in parts),
        "quartiles",
        "of roof",
    ]
    rows = []
    for entry in result["points"]:
        spread = ratio(result, entry)
        of, failed = baseline(result, entry), entry.get("failed", {})
        absent = {n: "failed" if n in failed else "–" for n in names if n not in entry["seconds"]}
        versus = {n: r[phase]["median"] for n, r in entry["ratios"].items()}
        rows.append(
            [
                *(str(entry["point"][axis]) for axis in axes),
                *(absent.get(n) or duration(entry["seconds"][n][phase]["median"]) for n in names),
                *(
                    absent.get(n)
                    or (f"{100 * versus[n]:.0f} %" if n in floors else times(versus[n]))
                    for n in others
                ),
                *(times(entry["ratios"][of][p]["median"]) for p in parts),
                f"{digits(spread['q1'])} to {digits(spread['q3'])}",
                f"{100 * entry['roofline']['share']:.0f} %",
            ]
        )
    return table(head, rows, right=0)


def contestants(result: Result) -> Iterator[str]:
    """Names by point, those who failed there included."""
    for entry in result["points"]:
        yield from entry["seconds"]
        yield from entry.get("failed", ())


def compile_text(result: Result) -> str:
    """How long torch.compile worked, or why it could not; nothing where it took no part."""
    first = [e.get("first_step_seconds", {}).get("torch.compile") for e in result["points"]]
    seconds = sorted(value for value in first if value is not None)
    failed = {e.get("failed", {}).get("torch.compile") for e in result["points"]} - {None}
    parts = []
    if seconds:
        span = " to ".join(dict.fromkeys((duration(seconds[0]), duration(seconds[-1]))))
        parts.append(f"torch.compile's first steps took {span}, in no timing.")
    parts += [f"torch.compile failed: {error}." for error in sorted(map(str, failed))]
    return " ".join(parts)


def machine_title(result: Result) -> str:
    """ "AMD EPYC, 2 cores, 2 threads, avx512"."""
    m = result["machine"]
    isa = m["backends"].get("cpu", {}).get("isa", m["backends"]["backend"])
    return f"{m['cpu']}, {m['cores']} cores, {threads_text(m)}, {isa}"


def threads_text(machine: dict[str, Any]) -> str:
    """ "2 threads"."""
    return f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"


def machine_text(results: Iterable[Result]) -> str:
    """Where and with what groups were measured: every version that one of them ran on."""
    described = sorted((r["machine"] for r in results if "machine" in r), key=lambda m: m["date"])
    m = described[0]
    caches = ", ".join(f"{name} {binary_size(size)}" for name, size in m["caches"].items())
    torches = " and ".join(dict.fromkeys(f"{d['torch']} ({d['torch_isa']})" for d in described))
    pythons = " and ".join(dict.fromkeys(d["python"] for d in described))
    versions = " and ".join(dict.fromkeys(d["fastchar"] for d in described))
    commits = ", ".join(dict.fromkeys(d["commit"] for d in described))
    days = " to ".join(dict.fromkeys((m["date"][:10], described[-1]["date"][:10])))
    return (
        f"{m['cpu']}, {m['cores']} cores, {caches}; {threads_text(m)}; torch {torches}, "
        f"Python {pythons}, fastchar {versions} at {commits}; {days}."
    )


def measured_text(result: Result) -> str:
    """The commit and the day of one result: a machine's are not all of the same."""
    return f"Measured at {result['machine']['commit']}, {result['machine']['date'][:10]}."


def group_text(result: Result) -> str:
    """What the numbers of one group rest on."""
    rounds = sorted(entry["rounds"] for entry in result["points"])
    roof, foreign = result["roof"], result["foreign_cores"]
    text = (
        f"Median times over {rounds[0]} to {rounds[-1]} interleaved rounds; in the same run "
        f"torch.mm did {roof['flops_per_second'] / 1e9:.0f} GFLOP/s and a copy "
        f"{roof['bytes_per_second'] / 1e9:.1f} GB/s"
    )
    text += "." if foreign is None else f", other processes kept {foreign:.2f} cores busy."
    return " ".join(filter(None, (text, compile_text(result), measured_text(result))))


def binary_size(size: int) -> str:
    """ "512 KiB", "32 MiB"."""
    return f"{size / 2**20:.3g} MiB" if size >= 2**20 else f"{size / 2**10:.4g} KiB"


def speed_table(result: Result) -> str:
    """Words a second of each trainer and ours against it."""
    rows = []
    for name, spread in result["words_per_second"].items():
        versus = result["ratios"].get(name)
        rows.append(
            (
                name,
                f"{result['parameters'][name] / 1e6:.2f} M",
                f"{spread['median']:.0f}",
                f"{spread['q1']:.0f} to {spread['q3']:.0f}",
                times(versus["median"]) if versus else "",
                f"{digits(versus['q1'])} to {digits(versus['q3'])}" if versus else "",
            )
        )
    against = f"{result['ours']} against it"
    head = ("trainer", "parameters", "words/s", "quartiles", against, "quartiles")
    return table(head, rows, right=1)


def third_party_table(result: Result) -> str:
    """Other packages' models: a step's time before and after accelerate, and the errors' ratio."""
    rows = []
    for model in result["models"]:
        row = [model["model"]]
        for phase in ("training", "inference"):
            seconds, versus = model[phase]["seconds"], model[phase]["ratio"]
            row += [duration(spread["median"]) for spread in seconds.values()]
            row.append(
                f"**{times(versus['median'])}** ({digits(versus['q1'])} to {digits(versus['q3'])})"
            )
        error = model["relative_error"]["gradient"]
        row.append(" and ".join(f"{error[name]:.1e}" for name in seconds))
        rows.append(row)
    head = ["model", "training, torch", "accelerated", "ratio", "inference, torch", "accelerated"]
    return table([*head, "ratio", "error of the gradient"], rows, right=1)


def third_party_text(result: Result) -> str:
    """What the table rests on."""
    packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items())
    rounds = sorted(
        model[p]["rounds"] for model in result["models"] for p in ("training", "inference")
    )
    return (
        f"{packages}; {machine_text([result])} Median times of a step over "
        f"{rounds[0]} to {rounds[-1]} interleaved rounds, quartiles of the ratio in brackets; the "
        "error is relative, against a float64 copy, torch's and ours. "
        f"Made by `{result['command']}`."
    )
