"""``fastchar train``: its options are the fields of :class:`fastchar.training.Config`."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from fastchar.cli.options import paragraphs
from fastchar.training.config import DEFAULTS, Config, read_yaml
from fastchar.training.files import InputError

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
    settings.pop("config")
    given = {
        name: value
        for name, value in settings.items()
        if ctx.get_parameter_source(name).name in ("COMMANDLINE", "DEFAULT_MAP")  # type: ignore[union-attr]
    }
    if resumed is None and settings["data"] is None:
        raise InputError("DATA: expected a file (or - for standard input), got none")
    if resumed is not None and given:
        names = ", ".join(sorted(given))
        raise InputError(f"--resume: expected no other settings (the run's own hold), got {names}")
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
                is_eager=True,
                callback=_read_settings,
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
    if field.default is None and not _is_optional(hint):
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


def _is_optional(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and types.NoneType in typing.get_args(hint)


def _read_settings(ctx: typer.Context, path: str | None) -> str | None:
    """Make the settings of a YAML file the defaults, each checked as on the command line."""
    if path is None:
        return None
    known: dict[str | None, Any] = {p.name: p for p in ctx.command.params}
    settings = {n: v for n, v in read_yaml(path).items() if v is not None}
    for name, value in settings.items():
        try:
            settings[name] = known[name].type_cast_value(ctx, value)
        except typer.BadParameter as error:
            raise InputError(f"{path}: {name}: {error.message} (got {value!r})") from None
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return path
