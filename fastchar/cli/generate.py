"""``fastchar generate``: text from a language model, as it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from fastchar.analysis.unseen import Unseen
from fastchar.cli.options import Device, Model, open_char_lm, paragraphs, warn
from fastchar.files import InputError

HELP = "Print text drawn from a language model, character by character."


def register(app: typer.Typer) -> None:
    app.command("generate", help=paragraphs(HELP))(generate)


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to go on from; printed first.")] = "",
    length: Annotated[int, typer.Option(min=0, help="Symbols to draw, at most.")] = 500,
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1 plays safe, above 1 dares.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the k likeliest symbols.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Only the likeliest symbols that have this probability."),
    ] = None,
    stop: Annotated[str | None, typer.Option(help="Stop before this text.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed draws the same text.", show_default="random")
    ] = None,
    device: Device = "auto",
) -> None:
    loaded = open_char_lm(model, device)
    try:
        pieces = loaded.stream(
            prompt,
            length=length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop=stop,
            seed=seed,
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    unseen = Unseen(loaded.vocabulary)
    unseen.add(prompt)
    warn(unseen)
    print(prompt, end="", flush=True)
    for piece in _drawn(pieces):
        print(piece, end="", flush=True)
    print()


def _drawn(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces; what cannot be drawn, of a model with NaN in it, is bad input too."""
    try:
        yield from pieces
    except ValueError as error:
        raise InputError(str(error)) from None
