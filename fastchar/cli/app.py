"""The ``fastchar`` command: its subcommands, and what happens when one of them fails."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fastchar.cli import env, evaluate, generate, inspect, predict, train
from fastchar.training.files import InputError
from fastchar.version import __version__


class _Group(TyperGroup):
    """Commands in the order of their use; bad input is one line and exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            line = " ".join(str(error).splitlines())
            typer.echo(f"fastchar: {line}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="fastchar",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Character-level LSTMs: grapheme-to-phoneme, transliteration, text generation.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastchar {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


for module in (train, evaluate, predict, generate, inspect, env):
    module.register(app)


def main() -> None:
    """The console script."""
    app()
