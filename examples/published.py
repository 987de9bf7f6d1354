"""Error rates on data that others have published theirs on: recipes, and a page of what they give.

Each recipe is a run of `fastchar train`; what it reaches goes into
benchmarks/results/published.json, and from there into docs/results.md. Nothing else of the data is
looked at than what a recipe trains on and is judged by.

    pip install --no-build-isolation ".[train]"
    python -m examples.published cmudict FOLDER       # with train.tsv and dev.tsv
    python -m examples.published text FILE            # its last tenth is held out
    python -m examples.published cmudict FOLDER --recipe default    # one alone
    python -m examples.published page                 # the page once more, from the results
"""

import argparse
import datetime
import json
import math
import shutil
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.report import replace_between
from benchmarks.tables import table
from fastchar.files import read_pairs, write_beside
from fastchar.models import CharLM, Seq2Seq
from fastchar.training import Config, train
from fastchar.training.evaluation import evaluate
from fastchar.training.run import Finished

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "published.json"
PAGE = ROOT / "docs" / "results.md"
BEAM = 5
Entry = dict[str, Any]
# By data and name: what differs from `fastchar train`'s defaults.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "cmudict": {"default": {}, "longer": {"dropout": 0.1, "epochs": 24}},
    "text": {"default": {"model": "char_lm"}},
}


def run(data: str, name: str, source: Path, folder: Path) -> Entry:
    """Trains a recipe into `folder`, and judges it."""
    dev = str(source / "dev.tsv") if source.is_dir() else None
    settings: Entry = {"data": str(source / "train.tsv" if dev else source), "dev": dev}
    shutil.rmtree(folder, ignore_errors=True)
    config = Config(out=str(folder), **settings, **RECIPES[data][name])
    about = machine.describe()
    finished = train(config)
    return {
        "data": data,
        "recipe": name,
        "settings": {k: v for k, v in config.used().items() if k not in ("data", "dev", "out")},
        "changed": RECIPES[data][name],
        "parameters": sum(p.numel() for p in finished.model.parameters()),
        "date": datetime.date.today().isoformat(),
        "machine": about,
        **judged(finished, dev),
    }


def judged(finished: Finished, dev: str | None) -> Entry:
    """Error rates of what was held out, greedily and with a beam; of text its bits a symbol."""
    if isinstance(finished.model, CharLM):
        rows = finished.folder.read_metrics()
        nats = min(row["dev_loss"] for row in rows)
        return {"nats": nats, "bits": nats / math.log(2)}
    assert isinstance(finished.model, Seq2Seq)
    assert dev is not None
    pairs = list(read_pairs(dev))
    rates = {}
    for beam in (1, BEAM):
        found = evaluate(finished.model, pairs, beam=beam).rates
        rates[str(beam)] = {"words": found.words, "wer": found.wer, "per": found.per}
    return {"rates": rates}


def record(entry: Entry, results: Path) -> list[Entry]:
    """Puts the entry in place of that of the same recipe; all that there are, in their order."""
    entries = json.loads(results.read_text()) if results.exists() else []
    place = {(e["data"], e["recipe"]): e for e in entries}
    place[entry["data"], entry["recipe"]] = entry
    order = [(data, name) for data, recipes in RECIPES.items() for name in recipes]
    entries = [place[key] for key in order if key in place]
    with write_beside(results) as stream:
        stream.write(json.dumps(entries, indent=1) + "\n")
    return entries


def write_page(entries: list[Entry], page: Path) -> None:
    text = page.read_text("utf-8")
    for data in RECIPES:
        own = [entry for entry in entries if entry["data"] == data]
        if own:
            text = replace_between(text, data, results_table(own))
    page.write_text(text, "utf-8")


def results_table(entries: list[Entry]) -> str:
    """A line a recipe, and under them what the figures were made with."""
    head = ["recipe", "settings", "parameters"]
    rows = []
    for entry in entries:
        settings = ", ".join(f"{k} {v}" for k, v in entry["changed"].items()) or "those of train"
        rows.append([entry["recipe"], settings, f"{entry['parameters'] / 1e6:.1f} M"])
        if "rates" in entry:
            greedy, beam = entry["rates"]["1"], entry["rates"][str(BEAM)]
            rows[-1] += [f"{100 * greedy['wer']:.2f} %", f"{100 * beam['wer']:.2f} %"]
            rows[-1] += [f"{100 * beam['per']:.2f} %"]
        else:
            rows[-1] += [f"{entry['nats']:.3f}", f"{entry['bits']:.3f}"]
    if "rates" in entries[0]:
        head += ["WER, greedy", f"WER, beam {BEAM}", f"PER, beam {BEAM}"]
        words = entries[0]["rates"]["1"]["words"]
        held_out = f"{words:,} held-out words. "
    else:
        head, held_out = [*head, "nats a character", "bits"], ""
    made = "; ".join(
        f"{e['recipe']}: {e['machine']['name']}, fastchar at {e['machine']['commit']}, {e['date']}"
        for e in entries
    )
    return f"{table(head, rows, right=2)}\n\n{held_out}{made}."


def main(data: str, source: Path, recipes: list[str]) -> None:
    for name in recipes:
        entry = run(data, name, source, Path("runs") / "published" / f"{data}-{name}")
        write_page(record(entry, RESULTS), PAGE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains recipes, and writes what they reach.")
    commands = parser.add_subparsers(dest="data", required=True)
    for data, recipes in RECIPES.items():
        command = commands.add_parser(data)
        command.add_argument("source", type=Path)
        command.add_argument("--recipe", action="append", choices=recipes, help="not all, but this")
    commands.add_parser("page")
    options = parser.parse_args()
    if options.data == "page":
        write_page(json.loads(RESULTS.read_text()), PAGE)
    else:
        main(options.data, options.source, options.recipe or list(RECIPES[options.data]))
