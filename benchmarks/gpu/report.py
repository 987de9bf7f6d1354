"""From what `benchmarks.gpu.check` found to Markdown."""

import re
from collections.abc import Iterator

from benchmarks.gpu.goals import PLAIN, Entry, by_graph, goals_table, ratio, step_microseconds
from benchmarks.tables import table

RESULT = "gpu_check.json"  # what `benchmarks.gpu.check` leaves of itself

# Microseconds a step that an H200 needs at the least, by what blocks need to synchronise: reckoned,
# for bf16 and B <= 128.
FLOORS = {256: 0.7, 512: 1.0, 1024: 1.6}


def overview(result: Entry, page: str) -> str:
    """What it comes to, and the page that has the rest."""
    failed = [check["what"] for check in result["checks"] if check["passed"] is False]
    parts = [f"#{title(result)}", goals_table(result.get("benchmarks", {}))]
    parts += [f"Failed: {', '.join(failed)}."] if failed else []
    parts += [f"[Every check and every point]({page})"]
    return "\n\n".join(part for part in parts if part)


def slug(gpu: str) -> str:
    """A GPU's name as that of a folder or page: "nvidia-h200"."""
    return "-".join(re.findall(r"[a-z0-9]+", gpu.lower()))


def title(result: Entry) -> str:
    return f"## {result['gpu']}, {result['date']}"


def markdown(result: Entry) -> str:
    """All of it, as a page."""
    parts = [
        title(result),
        f"torch {result['torch']}, CUDA {result['cuda']}, nvcc {result['nvcc']}, driver "
        f"{result['driver']}. Ratios are torch's time over fastchar's, in one run, by CUDA-graph "
        "replay (`*`: one of the two can't be captured, so both were called from Python); under "
        "eager, both called from Python.",
        *checks(result["checks"]),
    ]
    groups = result.get("benchmarks", {})
    if goals := goals_table(groups):
        parts += ["### Goals", goals]
    if found := groups.get("embedding_backward"):
        parts += ["### Embedding gradient", embedding_table(found)]
    if found := groups.get("lstm"):
        parts += ["### Embedding and LSTM", lstm_table(found)]
    if found := groups.get("ways"):
        parts += ["### A step of each way", ways_table(found)]
    parts += [
        f"The benchmarks were started again: {problem}" for problem in groups.get("problems", [])
    ]
    if groups.get("left_out"):
        parts.append(f"{groups['left_out']} points of the grid did not fit the time.")
    return "\n\n".join(parts) + "\n"


def checks(entries: list[Entry]) -> Iterator[str]:
    """What passed, and the ends of the outputs of what did not."""
    words = {True: "passed", False: "FAILED", None: "not run"}
    rows = [[c["what"], words[c["passed"]], str(c["seconds"]), c["summary"]] for c in entries]
    yield table(["check", "result", "seconds", "summary"], rows, right=4)
    for c in entries:
        if c["passed"] is False:
            yield f"{c['what']} FAILED: `{c['command']}`\n\n```\n{c['output'][-1500:]}\n```"


def embedding_table(entries: list[Entry]) -> str:
    """Microseconds, the ratio, and the share of the copy's bandwidth."""
    rows = []
    for entry in entries:
        cells = [str(v) for v in entry["point"].values()]
        if "error" in entry:
            rows.append([*cells, entry["error"], "", ""])
            continue
        ours = by_graph(entry)["fastchar"]
        star = "*" if entry["eager"] else ""
        rows.append([*cells, f"{ours * 1e6:.1f}", f"{ratio(entry['seconds']):.2f}{star}"])
        rows[-1].append(f"{100 * entry['bandwidth']:.0f} %" if "bandwidth" in entry else "")
    header = ["V", "N", "D", "dtype", "skewed", "us", "ratio", "of copy bandwidth"]
    return table(header, rows, right=0)


def lstm_table(entries: list[Entry]) -> str:
    """Microseconds a step, the share of the floor, and the ratios by graph and from Python."""
    rows = []
    for entry in entries:
        cells = [str(v) for v in entry["point"].values()]
        if "error" in entry:
            rows.append([*cells, entry["error"], *[""] * 5])
            continue
        H, B = entry["point"]["H"], entry["point"]["B"]
        forward, training = entry["forward"], entry["training"]
        step = step_microseconds(entry)
        star = "*" if forward["eager"] or training["eager"] else ""
        reckoned = B <= 128 and {**PLAIN, "dtype": "bf16"}.items() <= entry["point"].items()
        floor = FLOORS.get(H) if reckoned else None
        rows.append([*cells, f"{step:.2f}", f"{100 * floor / step:.0f} %" if floor else ""])
        rows[-1] += [f"{ratio(forward['seconds']):.2f}{star}"]
        rows[-1] += [f"{ratio(training['seconds']):.2f}{star}"]
        for part in (forward, training):
            eager = part.get("eager_seconds")
            rows[-1].append(f"{ratio(eager):.2f}" if eager else "")
    header = ["H", "B", "T", "layers", "both ways", "ragged", "dtype", "us a step"]
    header += ["of the floor", "ratio, forward", "ratio, training"]
    header += ["eager, forward", "eager, training"]
    return table(header, rows, right=0)


def ways_table(entries: list[Entry]) -> str:
    """Microseconds a step of each way that may serve a size, forced."""
    rows = []
    for entry in entries:
        cells = [str(v) for v in entry["point"].values()]
        if "error" in entry:
            rows.append([*cells, entry["error"], ""])
            continue
        both = (entry[part]["seconds"]["fastchar"] for part in ("forward", "backward"))
        rows.append([*cells, *(f"{seconds * 1e6:.2f}" for seconds in both)])
    header = ["H", "B", "dtype", "way", "us, forward", "us, backward"]
    return table(header, rows, right=0)
