"""``fastchar train``: its options are the fields of :class:`fastchar.training.Config`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from fastchar.cli.options import paragraphs
from fastchar.files import InputError
from fastchar.training.config import DEFAULTS, Config, read_yaml, without_none

HELP = """Train a model and write a run folder.

DATA holds [bold]pairs[/], one source<TAB>target a line (a source may have several lines), or with
[bold]--model char_lm[/] plain text. A name that ends in .gz is unzipped; - is standard input.

Ctrl-C stops after the current batch; [bold]--resume[/] goes on, with the same result as if it had
never stopped.
"""


def register(app: typer.Typer) -> None:
    app.command("train", help=paragraphs(HELP))(_command())


def train(ctx: typer.Context, **settings: Any) -> None:
    resumed = settings.pop("resume")
    file = settings.pop("config")
    given = {} if file is None else read_yaml(file)
    given |= {name: value for name, value in settings.items() if _typed(ctx, name)}
    if resumed is not None and given:
        names = ", ".join(sorted(given))
        raise InputError(f"--resume: expected no other settings (the run's own hold), got {names}")
    if resumed is None and given.get("data") is None:
        raise InputError("DATA: expected a file (or - for standard input), got none")
    config = None if resumed is not None else Config(**given)

    from fastchar.training.callbacks import Interrupted
    from fastchar.training.run import resume
    from fastchar.training.run import train as run

    try:
        if config is None:
            resume(resumed)
        else:
            run(config)
    except Interrupted:
        raise typer.Exit(130) from None


def _typed(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given, and is not there by default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _command() -> Any:
    """:func:`train` with a signature that has an option for each field of the configuration."""
    hints = typing.get_type_hints(Config)
    kind = inspect.Parameter
    parameters = [
        kind("ctx", kind.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        _keyword("data", str | None, typer.Argument(metavar="DATA", help="Pairs or text.")),
        _keyword(
            "config",
            str | None,
            typer.Option(
                metavar="FILE",
                help="YAML with any of these settings; options on the command line win.",
            ),
        ),
        _keyword(
            "resume",
            str | None,
            typer.Option(metavar="FOLDER", help="Go on with the run in this folder."),
        ),
    ]
    for field in dataclasses.fields(Config):
        if field.name != "data":
            parameters.append(_option(field, hints[field.name]))

    def command(*args: Any, **kwargs: Any) -> None:
        train(*args, **kwargs)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def _keyword(name: str, annotation: Any, info: Any, default: Any = None) -> inspect.Parameter:
    annotation = Annotated[annotation, info]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _option(field: Any, hint: Any) -> inspect.Parameter:
    metadata = field.metadata
    by_model = {model: values.get(field.name) for model, values in DEFAULTS.items()}
    known = {model: value for model, value in by_model.items() if value is not None}
    help = metadata["help"]
    if metadata["only"]:
        help += f" ({metadata['only']})"
    if len(set(known.values())) == 1:
        help += rf" [dim]\[default: {next(iter(known.values()))}][/]"
    elif known:
        each = ", ".join(f"{model} {value}" for model, value in known.items())
        help += rf" [dim]\[default: {each}][/]"
    flags = ["--" + field.name.replace("_", "-")] if hint is bool else []
    metavar = {int: "N", float: "X", str: "TEXT", str | None: "FILE"}.get(hint)
    if field.default is None and without_none(hint) is hint:
        hint = hint | None
    info: OptionInfo = typer.Option(
        *flags,
        metavar=metavar,
        help=help,
        min=metadata["min"],
        max=metadata["max"],
        rich_help_panel=metadata["panel"],
        show_default=field.default is not None and hint is not bool,
    )
    return _keyword(field.name, hint, info, field.default)
