"""``fastchar inspect``: what a model's embeddings hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fastchar.cli.options import Model, open_model, paragraphs
from fastchar.files import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from fastchar.text import Vocabulary

HELP = """
What a model's embeddings hold.

Its symbols, how often they were seen, how long their embeddings are, and which other symbols are
nearest, by the cosine of the embeddings.
"""


def register(app: typer.Typer) -> None:
    app.command("inspect", help=paragraphs(HELP))(inspect)


def inspect(
    model: Model,
    symbols: Annotated[
        list[str] | None,
        typer.Option("--symbol", "-s", help="Only this symbol; may be repeated."),
    ] = None,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest symbols to show.")] = 5,
    map: Annotated[
        str | None, typer.Option("--map", metavar="FILE", help="Draw a map of it as PNG.")
    ] = None,
) -> None:
    from fastchar.analysis.embedding import embeddings, plot_embedding, seen_symbols

    loaded = open_model(model, "cpu")
    maps = embeddings(loaded)
    seen = {v.symbols[i] for v, _ in maps.values() for i in seen_symbols(v)}
    for symbol in symbols or []:
        if symbol not in seen:
            raise InputError(
                f"--symbol: expected a symbol of the model, seen in training, got {symbol!r}"
            )
    if map is not None:
        plot_embedding(maps, map)
    parameters = sum(p.numel() for p in loaded.parameters())
    settings = ", ".join(f"{k} {v}" for k, v in loaded.config.items())
    typer.echo(f"{loaded.model_name}, {parameters:,} parameters: {settings}")
    for name, (vocabulary, weight) in maps.items():
        _print_table(name, vocabulary, weight, symbols, neighbours)
    if map is not None:
        typer.echo(f"\nmap in {map}")


def _print_table(
    name: str, vocabulary: Vocabulary, weight: Tensor, symbols: list[str] | None, k: int
) -> None:
    from fastchar.analysis.embedding import nearest, seen_symbols
    from fastchar.analysis.symbols import flush_right, visible

    seen = seen_symbols(vocabulary)
    index, cosines = nearest(weight[seen], k)
    norms = weight.norm(dim=1).tolist()
    counts = vocabulary.counts
    typer.echo(f"\n{name}: {len(seen)} symbols seen, embeddings of {weight.shape[1]} numbers")
    typer.echo(f"{'symbol':>8} {'seen':>10} {'norm':>7}   nearest, by cosine")
    for row, i in enumerate(seen):
        symbol = vocabulary.symbols[i]
        if symbols and symbol not in symbols:
            continue
        near = "  ".join(
            f"{visible(vocabulary.symbols[seen[j]])} {cosine:.2f}"
            for j, cosine in zip(index[row].tolist(), cosines[row].tolist(), strict=True)
        )
        count = f"{counts[i]:,}" if counts is not None else "?"
        typer.echo(f"{flush_right(visible(symbol), 8)} {count:>10} {norms[i]:7.2f}   {near}")
