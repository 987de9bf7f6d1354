"""How large should letters' embeddings be, and which lie close together? Measured, as a page.

Trains on seven percent of the CMU dictionary with embeddings of several sizes (`fastchar sweep`
from Python), and writes what came out into docs/embeddings.md: the error rates of each size on
held-out words, the neighbours of some letters, and a picture of each.

    pip install --no-build-isolation ".[demo,sweep]"
    python -m examples.embedding_size      # from the repository's root
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.report import replace_between
from fastchar.analysis.choice import spread
from fastchar.analysis.embedding import embeddings, nearest, plot_embedding, seen_symbols
from fastchar.demo import dictionary
from fastchar.files import Pair
from fastchar.models import CharLM, Seq2Seq
from fastchar.training import Config, sweep
from fastchar.training.data import write_data
from fastchar.training.folder import load_model
from fastchar.training.splits import split_by_source
from fastchar.training.sweeping import Swept

ROOT = Path(__file__).parents[1]
SIZES = (2, 4, 8, 16, 32, 64, 128)
SEEDS = 3
RECIPE: dict[str, Any] = {"hidden_size": 128, "batch_size": 64, "epochs": 15}
NEIGHBOURS = 4


def main(
    pairs: Sequence[Pair],
    page: Path,
    run: Path,
    letters: str = "aeiouybcgksz",
    sizes: Sequence[int] = SIZES,
    seeds: int = SEEDS,
    **recipe: Any,
) -> Swept:
    """Sweeps in the folder `run`, and fills `page` and the folder img beside it."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    data = run / "pairs.tsv"
    write_data(list(pairs), data)
    swept = sweep(Config(data=str(data), out=str(run / "sweep"), **recipe), sizes, seeds)
    model = load_model(swept.folder.trial(swept.choice.size, swept.config.seed))
    images = page.parent / "img"
    shutil.copyfile(swept.folder.picture, images / "embedding-size.png")
    plot_embedding(embeddings(model), images / "embedding-map.png")
    text = replace_between(page.read_text("utf-8"), "sizes", size_table(swept))
    text = replace_between(text, "neighbours", neighbour_table(model, letters))
    page.write_text(text, "utf-8")
    return swept


def size_table(swept: Swept) -> str:
    """A line a size: parameters, and mean and standard deviation over the seeds."""
    choice = swept.choice
    lines = ["| size | parameters | WER | PER | |", "| ---: | ---: | ---: | ---: | --- |"]
    for size in sorted({int(row["embedding_dim"]) for row in swept.rows}):
        rows = [row for row in swept.rows if row["embedding_dim"] == size]
        rates = []
        for name in ("dev_wer", "dev_per"):
            values = [100 * row[name] for row in rows]
            rates.append(f"{fmean(values):.1f} ± {spread(values):.1f} %")
        marks = ["best"] * (size == choice.best) + ["**chosen**"] * (size == choice.size)
        parameters = f"{int(rows[0]['parameters']):,}"
        lines.append(f"| {size} | {parameters} | {' | '.join(rates)} | {', '.join(marks)} |")
    return "\n".join(lines)


def neighbour_table(model: Seq2Seq | CharLM, letters: str) -> str:
    """A line a letter: the others whose embeddings are nearest, by cosine."""
    vocabulary, weight = next(iter(embeddings(model).values()))
    seen = seen_symbols(vocabulary)
    index, cosines = nearest(weight[seen], NEIGHBOURS)
    lines = ["| letter | nearest, and the cosine |", "| --- | --- |"]
    for row, i in enumerate(seen):
        if (symbol := vocabulary.symbols[i]) in letters:
            near = zip(index[row].tolist(), cosines[row].tolist(), strict=True)
            cells = [f"{vocabulary.symbols[seen[j]]} {cosine:.2f}" for j, cosine in near]
            lines.append(f"| {symbol} | {', '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    part, _ = split_by_source(dictionary(), (7, 93))
    main(part, ROOT / "docs" / "embeddings.md", Path("runs/embedding-size"), **RECIPE)
