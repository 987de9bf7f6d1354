"""`python -m benchmarks.report`: writes docs/performance.md and what hangs on it.

That page has the main table of each machine. Everything else that is known of a machine is on a
page of its own in docs/performance/, which is written whole; of the other pages only the text
between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced. All of it is computed from the
files in benchmarks/results/.
"""

import argparse
import json
from pathlib import Path

from . import goals, other_tables, plots, tables
from .gpu import report as gpu_report
from .groups import all_groups
from .machine import ROOT
from .run import RESULTS
from .tables import SPEED, THIRD_PARTY, Result

DOCS = ROOT / "docs"
FOLDER = "performance"  # of the machines' pages, in DOCS
IMAGES = "../img"  # from there
NO_GPU = (
    "No GPU has run the kernels yet: what they reach is still to be measured, by `make gpu-check`."
)
ABOUT = (
    "Everything that was measured on this machine, written by `python -m benchmarks.report`. "
    "What the letters and columns mean: [how to read it](../performance.md#how-to-read-it), "
    "[how it is measured](../performance.md#how-it-is-measured)."
)


def replace_between(text: str, name: str, content: str) -> str:
    """`text` with `content` between the markers of `name`; `ValueError` where they are missing."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"expected {begin!r} and then {end!r}, found only {found or 'neither'!r}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def in_order(results: dict[str, Result]) -> list[Result]:
    """The groups' results in the report's order."""
    return [results[name] for name in all_groups() if name in results]


def made_by(groups: list[Result]) -> str:
    return f"Made by `python -m benchmarks.run --grid {groups[0]['grid']}`."


def overview(name: str, results: dict[str, Result]) -> str:
    """One machine on the main page: every group beside its goals, and where the rest is."""
    groups = in_order(results)
    rows = goals.all_rows(groups, results)
    parts = [f"## {tables.machine_title(groups[0])}", goals.goals_table(rows)]
    parts.append(goals.reached_text(rows))
    parts.append(
        f"[Every point, pictures, accuracy, threads and what was tried]({FOLDER}/{name}.md)"
    )
    return "\n\n".join(parts)


def short_of_goals(results: dict[str, Result]) -> list[str]:
    """The points that fall short of the goals, what the ceilings rest on, and the accuracy."""
    ordered = in_order(results)
    parts = ["## Goals", goals.misses_text(goals.all_rows(ordered, results))]
    parts.append(goals.limits_text(ordered))
    if "accuracy" in results:
        parts.append(goals.accuracy_text(results["accuracy"]))
    return [*filter(None, parts)]


def speed(result: Result, images: Path, name: str) -> list[str]:
    """Whole training runs."""
    plots.draw_speed(result, images / f"{name}-{SPEED}.png")
    return [tables.speed_table(result), f"![Words a second]({IMAGES}/{name}-{SPEED}.png)"]


def threads(result: Result, images: Path, name: str) -> list[str]:
    """Speed-ups by group, then by point."""
    plots.draw_threads(result, images / f"{name}-threads.png")
    parts = [other_tables.threads_by_group(result), other_tables.threads_text(result)]
    return [*parts, f"![Speed-up]({IMAGES}/{name}-threads.png)", other_tables.threads(result)]


def other_sections(results: dict[str, Result], images: Path, name: str) -> list[str]:
    """What is no group of contestants, as far as it was measured."""
    drawn = {SPEED: speed, "threads": threads}
    parts = []
    for key in (SPEED, "recurrence", "isas", "accuracy", "compiled", "threads"):
        if key in results:
            result = results[key]
            parts.append(f"## {result['title']}")
            if key in drawn:
                parts += drawn[key](result, images, name)
            else:
                parts.append(getattr(other_tables, key)(result))
            parts.append(tables.measured_text(result))
    return parts


def machine_page(name: str, results: dict[str, Result], images: Path) -> str:
    """All that is known of one machine, pictures drawn on the way."""
    groups = in_order(results)
    parts = [f"# {tables.machine_title(groups[0])}", ABOUT, tables.summary_table(groups)]
    parts += [tables.machine_text(results.values()), made_by(groups), *short_of_goals(results)]
    captions = ("Ratio at every point", "Share of the roof", "Ratio along each axis")
    for caption, path in zip(captions, plots.draw(groups, images, name), strict=True):
        parts.append(f"![{caption}]({IMAGES}/{path.name})")
    parts += other_sections(results, images, name)
    if "tried" in results:
        parts += [f"## {results['tried']['title']}", other_tables.tried(results["tried"])]
    for result in groups:
        parts += [f"## {result['title']}", tables.group_table(result)]
        parts.append(tables.group_text(result))
    return "\n\n".join(parts) + "\n"


def readme_summary(results: dict[str, Result]) -> str:
    """The ratio table, and the training speed if it was measured."""
    groups = in_order(results)
    trained = [results[SPEED]] if SPEED in results else []
    parts = [tables.speed_table(result) for result in trained]
    parts += [tables.summary_table(groups), tables.machine_text([*trained, *groups])]
    return "\n\n".join([*parts, made_by(groups)])


def third_party(result: Result) -> str:
    """Other packages' models before and after accelerate."""
    return f"{tables.third_party_table(result)}\n\n{tables.third_party_text(result)}"


def gpu_section(results: Path, docs: Path) -> str:
    """What `benchmarks.gpu.check` measured in each of the folders, newest first, and its pages."""
    found = [json.loads(file.read_text()) for file in results.glob(f"*/{gpu_report.RESULT}")]
    found.sort(key=lambda result: result["date"], reverse=True)
    parts = []
    for result in found:
        page = f"{FOLDER}/{gpu_report.slug(result['gpu'])}.md"
        (docs / page).write_text(gpu_report.markdown(result))
        parts.append(gpu_report.overview(result, page))
    return "\n\n".join(parts) or NO_GPU


def newest_first(machines: dict[str, dict[str, Result]]) -> list[str]:
    """The machine that was measured last first; what is in a machine's own folder before the
    others, which hold variants: fewer threads, another instruction set."""

    def rank(name: str) -> tuple[bool, str]:
        described = [r["machine"] for r in machines[name].values() if "machine" in r]
        return described[0]["name"] == name, max(m["date"] for m in described)

    return sorted(machines, key=rank, reverse=True)


def rewrite(path: Path, name: str, content: str) -> None:
    path.write_text(replace_between(path.read_text(), name, content))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the machines")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args(arguments)

    groups = (path for path in options.results.glob("*/*.json") if path.name != gpu_report.RESULT)
    machines = {path.name: tables.load(path) for path in sorted({path.parent for path in groups})}
    order = newest_first(machines)
    pages = options.docs / FOLDER
    pages.mkdir(exist_ok=True)
    for name in order:
        page = machine_page(name, machines[name], options.docs / "img")
        (pages / f"{name}.md").write_text(page)
    sections = "\n\n".join(overview(name, machines[name]) for name in order)
    rewrite(options.docs / "performance.md", "results", sections)
    rewrite(options.docs / "performance.md", "gpu", gpu_section(options.results, options.docs))
    rewrite(options.readme, "summary", readme_summary(machines[order[0]]))
    measured = [machines[name][THIRD_PARTY] for name in order if THIRD_PARTY in machines[name]]
    if measured:
        rewrite(options.docs / "drop-in.md", "third-party", third_party(measured[0]))


if __name__ == "__main__":
    main()
