"""``fastchar sweep``: how large to make the embeddings."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer

from fastchar.cli.options import paragraphs
from fastchar.cli.settings import command, given, keyword
from fastchar.training.config import SEEDS, SIZES, Config

HELP = """How large to make the embeddings, chosen on held-out data.

Trains the same model with each [bold]--embedding-dim[/] and seed, on the same data and with the
same part of it held out, and shows the error rates of each size. It chooses the smallest size whose
mean error is within [bold]one standard error[/] of the best size's, over the seeds: a larger one is
no better than chance would make it.

Ctrl-C stops after the current batch; [bold]--resume[/] goes on, and repeats nothing.
"""


def register(app: typer.Typer) -> None:
    panel = "Sweep"
    own = [
        keyword(
            "embedding_dim",
            list[int],
            typer.Option(
                metavar="N",
                min=1,
                help="A size of the character embeddings to try; may be repeated.",
                rich_help_panel=panel,
            ),
            list(SIZES),
        ),
        keyword(
            "seeds",
            int,
            typer.Option(
                metavar="N",
                min=1,
                help="Trainings of each size, with the seeds from --seed on.",
                rich_help_panel=panel,
            ),
            SEEDS,
        ),
        keyword(
            "out",
            str | None,
            typer.Option(
                metavar="TEXT",
                help="Folder of the sweep, by default runs/NAME-OF-DATA-sweep.",
                rich_help_panel=panel,
            ),
        ),
    ]
    run = command(sweep, resume="Go on with the sweep in this folder.", own=own)
    app.command("sweep", help=paragraphs(HELP))(run)


def sweep(ctx: typer.Context, **settings: Any) -> None:
    resumed, found = given(ctx, settings)
    config = None
    if resumed is None:
        # One in a file is as good as none: that is what is to be found out.
        own = {"embedding_dim", "seeds"}
        config = Config(**{name: value for name, value in found.items() if name not in own})
        if found.get("out") is None:
            config = dataclasses.replace(config, out=f"{config.out}-sweep")

    from fastchar.training.callbacks import Interrupted
    from fastchar.training.sweeping import resume_sweep
    from fastchar.training.sweeping import sweep as run

    try:
        if config is not None:
            run(config, settings["embedding_dim"], settings["seeds"])
        elif resumed is not None:
            resume_sweep(resumed)
    except Interrupted:
        raise typer.Exit(130) from None
