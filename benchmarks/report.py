"""`python -m benchmarks.report`: docs/performance.md, its pictures and the tables in other pages.

Only the text between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced, all of it computed
from the files in benchmarks/results/.
"""

import argparse
from pathlib import Path

from . import goals, other_tables, plots, tables
from .groups import all_groups
from .machine import ROOT
from .run import RESULTS
from .tables import SPEED, THIRD_PARTY, Result

DOCS = ROOT / "docs"


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


def summary(results: dict[str, Result]) -> str:
    """The ratio table of one machine and where it was measured."""
    groups = in_order(results)
    text = tables.summary_table(groups) + "\n\n" + tables.machine_text(groups[0])
    grid = groups[0]["grid"]
    return text + f"\n\nMade by `python -m benchmarks.run --grid {grid}`."


def goals_section(results: dict[str, Result]) -> list[str]:
    """The goals beside what was measured, the points that fall short, and the accuracy."""
    ordered = in_order(results)
    rows = goals.all_rows(ordered, results)
    parts = ["### Goals", goals.goals_table(rows), goals.limits_text(ordered)]
    parts = [*filter(None, parts), goals.misses_text(rows)]
    if "accuracy" in results:
        parts.append(goals.accuracy_text(results["accuracy"]))
    return parts


def other_sections(results: dict[str, Result], images: Path, name: str) -> list[str]:
    """What is no group of contestants, as far as it was measured."""
    parts = []
    for key in ("recurrence", "isas", "accuracy", "compiled"):
        if key in results:
            parts += [f"### {results[key]['title']}", getattr(other_tables, key)(results[key])]
    if "threads" in results:
        result = results["threads"]
        plots.draw_threads(result, images / f"{name}-threads.png")
        parts += [f"### {result['title']}", other_tables.threads_by_group(result)]
        parts += [other_tables.threads_text(result), f"![Speed-up](img/{name}-threads.png)"]
        parts.append(other_tables.threads(result))
    return parts


def machine_section(name: str, results: dict[str, Result], images: Path) -> str:
    """All that is known of one machine, pictures drawn on the way."""
    groups = in_order(results)
    parts = [f"## {tables.machine_title(groups[0])}", summary(results), *goals_section(results)]
    captions = ("Ratio at every point", "Share of the roof", "Ratio along each axis")
    for caption, path in zip(captions, plots.draw(groups, images, name), strict=True):
        parts.append(f"![{caption}](img/{path.name})")
    if SPEED in results:
        plots.draw_speed(results[SPEED], images / f"{name}-{SPEED}.png")
        parts.append(f"### {results[SPEED]['title']}")
        parts.append(tables.speed_table(results[SPEED]))
        parts.append(f"![Words a second](img/{name}-{SPEED}.png)")
    parts += other_sections(results, images, name)
    if "tried" in results:
        parts += [f"### {results['tried']['title']}", other_tables.tried(results["tried"])]
    for result in groups:
        parts += [f"### {result['title']}", tables.group_table(result)]
        parts.append(tables.group_text(result))
    return "\n\n".join(parts)


def readme_summary(results: dict[str, Result]) -> str:
    """The ratio table, and the training speed if it was measured."""
    speed = [tables.speed_table(results[SPEED])] if SPEED in results else []
    return "\n\n".join([*speed, summary(results)])


def third_party(result: Result) -> str:
    """Other packages' models before and after accelerate."""
    return f"{tables.third_party_table(result)}\n\n{tables.third_party_text(result)}"


def newest(machines: dict[str, dict[str, Result]]) -> dict[str, Result]:
    """The results of the machine that was measured last, in its own folder if there is such a one.

    Other folders hold variants of a machine: fewer threads, another instruction set.
    """

    def rank(name: str) -> tuple[bool, str]:
        described = [r["machine"] for r in machines[name].values() if "machine" in r]
        return described[0]["name"] == name, max(m["date"] for m in described)

    return machines[max(machines, key=rank)]


def rewrite(path: Path, name: str, content: str) -> None:
    path.write_text(replace_between(path.read_text(), name, content))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the machines")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args(arguments)

    folders = sorted(path for path in options.results.iterdir() if any(path.glob("*.json")))
    machines = {path.name: tables.load(path) for path in folders}
    sections = [
        machine_section(name, results, options.docs / "img") for name, results in machines.items()
    ]
    rewrite(options.docs / "performance.md", "results", "\n\n".join(sections))
    shown = newest(machines)
    rewrite(options.readme, "summary", readme_summary(shown))
    if THIRD_PARTY in shown:
        rewrite(options.docs / "drop-in.md", "third-party", third_party(shown[THIRD_PARTY]))


if __name__ == "__main__":
    main()
