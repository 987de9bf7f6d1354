"""The ``fastchar`` command: its subcommands, and what happens when one of them fails."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fastchar.cli import bench, env, evaluate, export, generate, inspect, predict, sweep, train
from fastchar.files import InputError
from fastchar.version import __version__


class _Group(TyperGroup):
    """Commands in the order of their use; what fails says so in one line.

    Exit code 2 for bad input, 1 for what the system lacks, such as memory or disk. A reader
    of the output that goes away ends the command quietly (click does that).
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            _complain(str(error))
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            place = f"{error.filename}: " if error.filename is not None else ""
            _complain(f"{place}{error.strerror or error}")
            raise typer.Exit(1) from None
        except typer.Exit:  # a RuntimeError; to ask below what it says would load torch for --help
            raise
        except (MemoryError, RuntimeError) as error:
            from fastchar.training.memory import is_lack_of_memory

            if not is_lack_of_memory(error):
                raise
            _complain("not enough memory; shorter lines, a smaller batch or beam need less")
            raise typer.Exit(1) from None


def _complain(text: str) -> None:
    typer.echo(f"fastchar: {' '.join(text.splitlines())}", err=True)


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


for module in (train, evaluate, predict, generate, inspect, sweep, export, bench, env):
    module.register(app)


def main() -> None:
    """Run the command line; data goes out as it comes in, UTF-8 whatever the locale says."""
    # Python has None for those that the caller closed.
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
    app()
