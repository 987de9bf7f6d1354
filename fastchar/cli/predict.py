"""``fastchar predict``: sources in, targets out, in the same order, as soon as they are known."""

from __future__ import annotations

import itertools
import math
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastchar.analysis.unseen import Unseen
from fastchar.cli.options import (
    BatchSize,
    Device,
    Ensemble,
    LengthPenalty,
    Model,
    open_seq2seq,
    paragraphs,
    warn,
    with_others,
)
from fastchar.files import InputError, name_of, one_cell, read_lines, shorten, write_beside

if TYPE_CHECKING:
    from typing import TextIO

    from fastchar.models import Hypothesis, Predictor

HELP = """Print the targets of sources, one source a line.

Prints source<TAB>target, with [bold]--n-best[/] several such lines a source, best first: what train
reads. Blank lines stay blank, so that lines can be counted. What comes in slowly is answered at
once, what comes in fast in batches.
"""


def register(app: typer.Typer) -> None:
    app.command("predict", help=paragraphs(HELP))(predict)


def predict(
    model: Model,
    source: Annotated[
        str,
        typer.Argument(metavar="FILE", help="One source a line; - is standard input."),
    ] = "-",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, not to standard output."),
    ] = None,
    n_best: Annotated[int, typer.Option(min=1, help="Targets a source.")] = 1,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1, help="Width of the beam; 1 is greedy search.", show_default="5, or N-BEST"
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="A third column: the target's probability.")
    ] = False,
    ensemble: Ensemble = None,
    length_penalty: LengthPenalty = 0.0,
    batch_size: BatchSize = 256,
    device: Device = "auto",
) -> None:
    beam = max(5, n_best) if beam is None else beam
    if n_best > beam:
        raise InputError(f"--n-best: expected at most the beam ({beam}), got {n_best}")
    loaded = with_others(open_seq2seq(model, device), model, ensemble, device)
    unseen = Unseen(loaded.source)

    def answer(stream: TextIO) -> None:
        for lines in _with_bar(_batches(source, batch_size), source, output):
            for line, hypotheses in _predict(loaded, lines, beam, n_best, length_penalty):
                _print(stream, line, hypotheses, probabilities)
                unseen.add(line if hypotheses else "")
            stream.flush()

    if output is None:
        answer(sys.stdout)
    else:
        with write_beside(output) as stream:
            answer(stream)
    warn(unseen)


def _batches(source: str, batch_size: int) -> Iterator[list[str]]:
    """Batches of lines; from standard input of whatever lines are there, at least one, so that
    nobody who types or pipes slowly waits for a batch to fill."""
    if source != "-":
        lines = _sources(source)
        while batch := list(itertools.islice(lines, min(batch_size, sys.maxsize))):
            yield batch
        return
    yield from _as_they_come(batch_size)


def _sources(path: str) -> Iterator[str]:
    """The lines of a file, none of which may hold a tab, which ends a source in what comes out."""
    for number, line in read_lines(path):
        if "\t" in line:
            raise InputError(
                f"{name_of(path)}, line {number}: expected one source and no tab, got "
                f"{shorten(line)!r}"
            )
        yield line


def _as_they_come(batch_size: int) -> Iterator[list[str]]:
    lines: queue.Queue[str | BaseException | None] = queue.Queue(maxsize=4 * batch_size)

    def read() -> None:
        try:
            for line in _sources("-"):
                lines.put(line)
            lines.put(None)
        except BaseException as error:
            lines.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        batch: list[str] = []
        line = lines.get()
        while isinstance(line, str):
            batch.append(line)
            if len(batch) == batch_size:
                break
            try:
                line = lines.get_nowait()
            except queue.Empty:
                break
        if batch:
            yield batch
        if isinstance(line, BaseException):
            raise line
        if line is None:
            return


def _with_bar(batches: Iterator[list[str]], source: str, output: str | None) -> Iterator[list[str]]:
    """A bar on standard error, unless somebody types, or reads the output as it comes."""
    typed = source == "-" and sys.stdin is not None and sys.stdin.isatty()
    if typed or (output is None and sys.stdout.isatty()):
        yield from batches
        return
    from fastchar.training.console import make_bar, make_console

    with make_bar(make_console(stderr=True)) as bar:
        # What is no file can be read only once, zipped lines take long to count, and bad ones are
        # for the batches to find.
        total = None
        if Path(source).is_file() and not source.endswith(".gz") and not bar.disable:
            with open(source, "rb") as stream:
                total = sum(1 for _ in stream)
        task = bar.add_task("predicting", total=total)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))


def _predict(
    model: Predictor, lines: list[str], beam: int, n_best: int, length_penalty: float
) -> Iterator[tuple[str, list[Hypothesis]]]:
    words = [line for line in lines if line.strip()]
    found = iter(
        model.predict(
            words,
            beam=beam,
            n_best=n_best,
            length_penalty=length_penalty,
            batch_size=max(1, len(words)),
        )
    )
    for line in lines:
        yield line, next(found) if line.strip() else []


def _print(stream: TextIO, line: str, hypotheses: list[Hypothesis], probabilities: bool) -> None:
    if not hypotheses:
        stream.write("\n")
    for hypothesis in hypotheses:
        columns = [line, one_cell(hypothesis.text)]
        if probabilities:
            columns.append(f"{math.exp(hypothesis.log_prob):.4g}")
        stream.write("\t".join(columns) + "\n")
