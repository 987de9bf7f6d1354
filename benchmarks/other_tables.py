"""Tables of what is no group of contestants: recurrent products, instruction sets, accuracy,
compiled models, threads."""

from typing import Any

from . import scaling
from .grids import TORCH_COMPILE
from .groups import OURS, all_groups
from .tables import Result, binary_size, digits, duration, geometric_mean, point_text, table, times

MORE = (4, 8, 16)  # counts of threads that are predicted where the machine does not have them


def percent(spread: dict[str, float]) -> str:
    """Median and quartiles, "82 % (80 to 84)"."""
    median, q1, q3 = (round(100 * spread[key]) for key in ("median", "q1", "q3"))
    return f"{median} % ({q1} to {q3})"


def recurrence(result: Result) -> str:
    """Share of torch.mm's rate, by point and part."""
    parts = list(result["points"][0]["parts"])
    rows = [
        [
            point_text(entry["point"]),
            *(percent(entry["parts"][part]["share"]) for part in parts),
            *(f"{entry['parts'][part]['flops_per_second'] / 1e9:.0f}" for part in parts),
        ]
        for entry in result["points"]
    ]
    return table(["", *parts, *(f"{part}, GFLOP/s" for part in parts)], rows, right=1)


def isas(result: Result) -> str:
    """Time with the default set, and the others' speed by it."""
    best = result["isa"]
    others = [name for name in result["points"][0]["speed"] if name != best]
    rows = [
        [
            entry["title"],
            point_text(entry["point"]),
            duration(entry["seconds"][best]["median"]),
            *(percent(entry["speed"][name]) for name in others),
        ]
        for entry in result["points"]
    ]
    return table(["", "", best, *(f"{name}, of its speed" for name in others)], rows, right=2)


def accuracy(result: Result) -> str:
    """By group: tensors judged, how many over twice torch's error, the worst one."""
    rows = []
    for group in result["groups"]:
        worst = max(group["points"], key=lambda entry: entry["worst"])
        rows.append(
            [
                group["title"],
                str(len(group["points"])),
                str(group["tensors"]),
                str(group["over"]),
                times(worst["worst"]),
                f"{worst['of']} at {point_text(worst['point'])}",
                group["broken"] or "kept",
            ]
        )
    head = ("", "points", "tensors", "over 2×", "worst", "of", "rule")
    return table(head, rows, right=1)


def compiled(result: Result) -> str:
    """By model, work and point: time of ours compiled, and eager's and torch's by it."""
    rows = []
    for entry in result["points"]:
        row = [entry["model"], entry["work"], point_text(entry["point"])]
        row.append(duration(entry["seconds"][TORCH_COMPILE]["median"]))
        for name in (OURS, "torch"):
            ratio = entry["ratios"][name]
            quartiles = f"{digits(ratio['q1'])} to {digits(ratio['q3'])}"
            row.append(f"**{times(ratio['median'])}** ({quartiles})")
        rows.append(row)
    head = ("", "", "", "fastchar, compiled", "fastchar, eager, by it", "torch, eager, by it")
    return table(head, rows, right=3)


def threads(result: Result) -> str:
    """By point: seconds at one thread, speed-up measured and predicted, weights a member reads."""
    counts = [name for name in result["points"][0]["speedup"] if name != "1"]
    head = ["", "", "1 thread"]
    for name in counts:
        head += [f"{name} threads", "quartiles", "predicted", "weights a thread"]
    rows = []
    for entry in result["points"]:
        row = [entry["title"], point_text(entry["point"])]
        row.append(duration(entry["seconds"]["1"]["median"]))
        for name in counts:
            speedup = entry["speedup"][name]
            size = scaling.slice_bytes(entry["point"], int(name))
            row += [
                times(speedup["median"]),
                f"{digits(speedup['q1'])} to {digits(speedup['q3'])}",
                times(entry["predicted"][name]),
                "" if size is None else binary_size(size),
            ]
        rows.append(row)
    return table(head, rows, right=2)


def threads_by_group(result: Result) -> str:
    """Geometric means of a group's speed-ups: measured, predicted, and what more cores would give
    if they had this machine's memory, and a barrier cost what it costs all of its cores."""
    largest = max(result["wait_seconds"], key=int)
    isa = result["machine"]["backends"]["cpu"]["isa"]
    alone, most = (result["roofs"][n]["bytes_per_second"] for n in ("1", largest))
    groups = all_groups()
    rows = []
    for name, entries in _by_group(result).items():
        row = [entries[0]["title"]]
        for count in result["wait_seconds"]:
            row.append(times(geometric_mean(e["speedup"][count]["median"] for e in entries)))
            row.append(times(geometric_mean(e["predicted"][count] for e in entries)))
        for count in (count for count in MORE if count > int(largest)):
            costs = scaling.Costs(
                result["fixed_seconds"][name],
                {count: result["wait_seconds"][largest]},
                {1: alone, count: most},
            )
            ones = [(e["point"], e["seconds"]["1"]["median"]) for e in entries]
            values = [
                one / scaling.predicted(groups[name], point, one, count, costs, isa)
                for point, one in ones
            ]
            row.append(times(geometric_mean(values)))
        rows.append(row)
    head = [""]
    for count in result["wait_seconds"]:
        head += [f"{count} threads", "predicted"]
    head += [f"{count} threads, predicted" for count in MORE if count > int(largest)]
    return table(head, rows, right=1)


def threads_text(result: Result) -> str:
    """What the model rests on."""
    waits = ", ".join(
        f"{1e6 * seconds:.2g} us with {count}" for count, seconds in result["wait_seconds"].items()
    )
    one, most = result["roofs"]["1"], result["roofs"][max(result["roofs"], key=int)]
    products = most["flops_per_second"] / one["flops_per_second"]
    copies = most["bytes_per_second"] / one["bytes_per_second"]
    caches = result["machine"]["caches"]
    return (
        f"A barrier costs {waits} threads, hand-over included. From 1 to {max(result['roofs'])} "
        f"threads torch.mm gains {times(products)} and a copy {times(copies)}, which bounds what "
        f"memory bounds. A core's L2 holds {binary_size(caches['L2'])}."
    )


def tried(result: Result) -> str:
    """What was predicted and what was measured, in the order in which it was tried."""
    rows = []
    for entry in result["entries"]:
        gains = f"{times(entry['least_gain'])} to {times(entry['most_gain'])}"
        rows.append(
            [
                entry["what"],
                entry["predicted"],
                f"{entry['title']}, {entry['points']} points",
                times(entry["ratio_before"]),
                times(entry["ratio_after"]),
                f"{times(entry['gain'])} ({gains})",
                entry["note"],
            ]
        )
    head = ("", "predicted", "measured on", "before", "after", "gain (least to most)", "")
    return table(head, rows, right=len(head))


def _by_group(result: Result) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in result["points"]:
        groups.setdefault(entry["group"], []).append(entry)
    return groups
