"""``fastchar train``: its options are the fields of :class:`fastchar.training.Config`."""

from __future__ import annotations

from typing import Any

import typer

from fastchar.cli.options import paragraphs
from fastchar.cli.settings import command, given
from fastchar.training.config import Config

HELP = """Train a model and write a run folder.

DATA holds [bold]pairs[/], one source<TAB>target a line (a source may have several lines), or with
[bold]--model char_lm[/] plain text. A name that ends in .gz is unzipped; - is standard input.

Ctrl-C stops after the current batch; [bold]--resume[/] goes on, with the same result as if it had
never stopped.
"""


def register(app: typer.Typer) -> None:
    run = command(train, resume="Go on with the run in this folder.")
    app.command("train", help=paragraphs(HELP))(run)


def train(ctx: typer.Context, **settings: Any) -> None:
    resumed, found = given(ctx, settings)
    config = None if resumed is not None else Config(**found)

    from fastchar.training.callbacks import Interrupted
    from fastchar.training.run import resume
    from fastchar.training.run import train as run

    try:
        if config is not None:
            run(config)
        elif resumed is not None:
            resume(resumed)
    except Interrupted:
        raise typer.Exit(130) from None
