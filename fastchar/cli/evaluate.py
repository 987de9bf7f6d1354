"""``fastchar evaluate``: error rates, what was taken for what, and every mistake in a file."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from fastchar.analysis.symbols import flush_left, flush_right, visible
from fastchar.analysis.unseen import Unseen
from fastchar.cli.options import (
    BatchSize,
    Beam,
    Device,
    Ensemble,
    LengthPenalty,
    Model,
    open_model,
    paragraphs,
    typed,
    warn,
    with_others,
)
from fastchar.files import InputError, one_cell, read_pairs, read_text, write_beside

if TYPE_CHECKING:
    from collections import Counter
    from typing import TextIO

    from fastchar.models import CharLM, Predictor
    from fastchar.training.evaluation import Evaluation
    from fastchar.training.metrics import Confusion

HELP = """How well a model does on data that it was not trained on.

For pairs: word errors (a word is right if it equals [bold]any[/] of its references), symbol errors
(against the [bold]closest[/] reference) and the worst confusions. For a language model: nats and
bits per symbol, and perplexity.
"""


def register(app: typer.Typer) -> None:
    app.command("evaluate", help=paragraphs(HELP))(evaluate)


def evaluate(
    ctx: typer.Context,
    model: Model,
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="Pairs or text, as for train.", show_default=False),
    ],
    errors: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write every mistake here: a TSV (.gz is zipped)."),
    ] = None,
    confusions: Annotated[int, typer.Option(min=0, help="How many confusions to show.")] = 15,
    ensemble: Ensemble = None,
    beam: Beam = 1,
    length_penalty: LengthPenalty = 0.0,
    batch_size: BatchSize = 256,
    device: Device = "auto",
) -> None:
    from fastchar.models import CharLM

    loaded = open_model(model, device)
    if isinstance(loaded, CharLM):
        for name in ("errors", "confusions", "ensemble", "beam", "length_penalty", "batch_size"):
            if typed(ctx, name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option}: expected a seq2seq model, got a char_lm model")
        _evaluate_text(loaded, data)
        return
    predictor = with_others(loaded, model, ensemble, device)
    with write_beside(errors) if errors is not None else nullcontext() as stream:
        found = _evaluate_pairs(predictor, data, beam, length_penalty, batch_size)
        if stream is not None:
            _write_mistakes(found, stream)
    rates = found.rates
    typer.echo(f"words    {rates.words:10,}")
    typer.echo(f"wrong    {rates.wrong:10,}   WER {rates.wer:.2%}")
    typer.echo(f"symbols  {rates.symbols:10,}")
    typer.echo(f"edits    {rates.edits:10,}   PER {rates.per:.2%}")
    if found.confusions and confusions:
        typer.echo("")
        _print_confusions(found.confusions, confusions)
    if errors is not None:
        typer.echo(f"\n{len(found.mistakes):,} mistakes in {errors}")


def _evaluate_pairs(
    model: Predictor, data: str, beam: int, length_penalty: float, batch_size: int
) -> Evaluation:
    from fastchar.training import evaluation
    from fastchar.training.console import make_console, track
    from fastchar.training.splits import references_of

    pairs = read_pairs(data)
    console = make_console(stderr=True)
    unseen = Unseen(model.source)
    for source in references_of(pairs):
        unseen.add(source)
    warn(unseen)
    return evaluation.evaluate(
        model,
        pairs,
        beam=beam,
        length_penalty=length_penalty,
        batch_size=batch_size,
        progress=lambda items, total: track(items, console, "evaluating", total),
    )


def _evaluate_text(model: CharLM, data: str) -> None:
    import math

    from fastchar.training.console import make_console, track
    from fastchar.training.evaluation import text_loss

    text = read_text(data)
    unseen = Unseen(model.vocabulary)
    unseen.add(text)
    symbols = unseen.total
    if symbols < 2:
        raise InputError(f"{data}: expected two symbols or more, got {symbols}")
    warn(unseen)
    console = make_console(stderr=True)
    loss = text_loss(
        model, text, progress=lambda items, total: track(items, console, "reading", total)
    )
    # Of a model that went astray it may be more than a number holds.
    perplexity = math.exp(loss) if loss < math.log(sys.float_info.max) else math.inf
    typer.echo(f"symbols     {symbols:12,}")
    typer.echo(f"loss        {loss:12.4f}   nats per symbol")
    typer.echo(f"            {loss / math.log(2):12.4f}   bits per symbol")
    typer.echo(f"perplexity  {perplexity:12.3f}")


def _print_confusions(confusions: Counter[Confusion], most: int) -> None:
    total = confusions.total()
    typer.echo(f"{'expected':>10}  {'got':<10}{'times':>7}{'share':>8}")
    widest = confusions.most_common(1)[0][1]
    for (expected, got), times in confusions.most_common(most):
        bar = "▇" * max(1, round(20 * times / widest))
        left, right = ("∅" if s is None else visible(s) for s in (expected, got))
        row = f"{flush_right(left, 10)}  {flush_left(right, 10)}"
        typer.echo(f"{row}{times:7,}{times / total:8.1%}  {bar}")


def _write_mistakes(found: Evaluation, stream: TextIO) -> None:
    stream.write("source\texpected\tgot\tedits\tlog_prob\n")
    for mistake in found.mistakes:
        expected = " | ".join(mistake.references)
        best = mistake.hypothesis
        got = one_cell(best.text)
        stream.write(f"{mistake.source}\t{expected}\t{got}\t{mistake.edits}\t{best.log_prob:.4f}\n")
