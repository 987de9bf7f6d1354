"""Options that several commands share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from fastchar.files import InputError

if TYPE_CHECKING:
    from fastchar.analysis.unseen import Unseen
    from fastchar.models import CharLM, Predictor, Seq2Seq

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A run folder, or a model folder.", show_default=False),
]
Ensemble = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="Another model of the same symbols: the probabilities are averaged. May be repeated.",
    ),
]
Beam = Annotated[int, typer.Option(min=1, help="Width of the beam; 1 is greedy search.")]
LengthPenalty = Annotated[
    float,
    typer.Option(
        min=0, max=10, help="Rank by log-probability / length ** this; 0: by probability."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Words read at a time.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda if there is one.")]


def paragraphs(text: str) -> str:
    """Help text with a line a paragraph, for the terminal to wrap at its own width."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text.strip())


def typed(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given, and is not there by default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def warn(unseen: Unseen) -> None:
    """One line on standard error, if a model read symbols that it does not know."""
    if line := unseen.line():
        typer.echo(f"fastchar: {line}", err=True)


def open_model(path: str, device: str) -> Seq2Seq | CharLM:
    """The model in ``path``, ready to predict. Raises :class:`InputError`."""
    from fastchar.training.device import choose_device
    from fastchar.training.folder import load_model

    try:
        place = choose_device(device)
    except InputError as error:
        raise InputError(f"--{error}") from None
    return load_model(path).to(place)


def open_seq2seq(path: str, device: str) -> Seq2Seq:
    from fastchar.models import Seq2Seq

    model = open_model(path, device)
    if not isinstance(model, Seq2Seq):
        raise InputError(f"{path}: expected a seq2seq model, got a {model.model_name} model")
    return model


def with_others(first: Seq2Seq, path: str, others: list[str] | None, device: str) -> Predictor:
    """The model ``first``, which is that in ``path``, and if there are ``others`` an ensemble of
    all. Raises :class:`InputError`."""
    if not others:
        return first
    from fastchar.models import Ensemble

    models = [first]
    for other in others:
        model = open_seq2seq(other, device)
        if (model.source, model.target) != (first.source, first.target):
            raise InputError(f"--ensemble: expected a model of {path}'s symbols, got {other}")
        models.append(model)
    return Ensemble(models)


def open_char_lm(path: str, device: str) -> CharLM:
    from fastchar.models import CharLM

    model = open_model(path, device)
    if not isinstance(model, CharLM):
        raise InputError(f"{path}: expected a char_lm model, got a {model.model_name} model")
    return model
