"""Error rates on data that others have published theirs on: recipes, and a page of what they give.

Each recipe is a run of `fastchar train`, or several of them as an ensemble; what it reaches goes
into benchmarks/results/published.json, and from there into docs/results.md. Nothing else of the
data is looked at than what a recipe trains on and is judged by.

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
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.report import replace_between
from benchmarks.tables import table
from fastchar.files import InputError, read_pairs, write_beside
from fastchar.models import CharLM, Ensemble, Predictor, Seq2Seq
from fastchar.training import Config, resume, train
from fastchar.training.config import read_yaml
from fastchar.training.data import TextData
from fastchar.training.evaluation import evaluate, streams_loss
from fastchar.training.run import Finished

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "published.json"
PAGE = ROOT / "docs" / "results.md"
RUNS = Path("runs") / "published"
BEAM = 5
Entry = dict[str, Any]
# By data and name: what differs from `fastchar train`'s defaults.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "cmudict": {
        "default": {},
        "longer": {"dropout": 0.1, "epochs": 24},
        "deeper": {"encoder_layers": 2, "dropout": 0.15, "epochs": 24},
    },
    "text": {
        "default": {"model": "char_lm"},
        "deeper": {"model": "char_lm", "num_layers": 2, "dropout": 0.4, "epochs": 18},
    },
}
# Recipes whose models predict as one.
ENSEMBLES: dict[str, dict[str, list[str]]] = {
    "cmudict": {"ensemble": ["default", "longer", "deeper"]},
    "text": {},
}


def run(data: str, name: str, source: Path) -> tuple[Entry, Finished]:
    """Trains a recipe, or goes on with it, and judges it; what of it is there already is kept."""
    dev = source / "dev.tsv" if source.is_dir() else None
    folder = RUNS / f"{data}-{name}"
    config = Config(
        data=str(source / "train.tsv" if dev else source),
        dev=str(dev) if dev else None,
        out=str(folder),
        **RECIPES[data][name],
    )
    about = folder.with_suffix(".json")  # what it is trained on, and with
    if (folder / "config.yaml").is_file():
        there = Config(**read_yaml(str(folder / "config.yaml")))
        if settings_of(there) != settings_of(config):
            raise InputError(f"{folder}: expected a run by this recipe, got another; remove it")
        print(f"{folder}: going on with what is there; remove it to train anew")
        finished = resume(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        about.write_text(json.dumps(machine.describe()))
        finished = train(config)
    entry = {
        "data": data,
        "recipe": name,
        "settings": settings_of(config),
        "changed": RECIPES[data][name],
        "parameters": sum(p.numel() for p in finished.model.parameters()),
        "date": datetime.date.today().isoformat(),
        "machine": json.loads(about.read_text()),
    }
    if isinstance(finished.model, CharLM):
        assert isinstance(finished.data, TextData)
        nats = streams_loss(finished.model, finished.data.dev)
        return {**entry, "nats": nats, "bits": nats / math.log(2)}, finished
    assert dev is not None
    return {**entry, "rates": error_rates(finished.model, dev)}, finished


def settings_of(config: Config) -> Entry:
    """All but the places of files."""
    return {k: v for k, v in config.used().items() if k not in ("data", "dev", "out")}


def run_together(data: str, name: str, source: Path) -> Entry:
    """Judges several recipes' models as one, after training those that are not there."""
    runs = [run(data, member, source) for member in ENSEMBLES[data][name]]
    models = [finished.model for _, finished in runs if isinstance(finished.model, Seq2Seq)]
    return {
        "data": data,
        "recipe": name,
        "together": ENSEMBLES[data][name],
        "parameters": sum(entry["parameters"] for entry, _ in runs),
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "rates": error_rates(Ensemble(models), source / "dev.tsv"),
    }


def error_rates(model: Predictor, dev: Path) -> dict[str, dict[str, float]]:
    """Of held-out pairs, by width of the beam."""
    pairs = list(read_pairs(str(dev)))
    rates = {}
    for beam in (1, BEAM):
        found = evaluate(model, pairs, beam=beam).rates
        rates[str(beam)] = {"words": found.words, "wer": found.wer, "per": found.per}
    return rates


def names(data: str) -> list[str]:
    return [*RECIPES[data], *ENSEMBLES[data]]


def record(entry: Entry, results: Path) -> list[Entry]:
    """Puts the entry in place of that of the same recipe; all that there are, in their order."""
    entries = json.loads(results.read_text()) if results.exists() else []
    place = {(e["data"], e["recipe"]): e for e in entries}
    place[entry["data"], entry["recipe"]] = entry
    order = [(data, name) for data in RECIPES for name in names(data)]
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
        if "together" in entry:
            settings = ", ".join(entry["together"]) + " together"
        else:
            settings = ", ".join(f"{k} {v}" for k, v in entry["changed"].items())
            settings = settings or "those of train"
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
        together = name in ENSEMBLES[data]
        entry = run_together(data, name, source) if together else run(data, name, source)[0]
        write_page(record(entry, RESULTS), PAGE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains recipes, and writes what they reach.")
    commands = parser.add_subparsers(dest="data", required=True)
    for data in RECIPES:
        command = commands.add_parser(data)
        command.add_argument("source", type=Path)
        command.add_argument(
            "--recipe", action="append", choices=names(data), help="not all, but this"
        )
    commands.add_parser("page")
    options = parser.parse_args()
    if options.data == "page":
        write_page(json.loads(RESULTS.read_text()), PAGE)
    else:
        main(options.data, options.source, options.recipe or names(options.data))
