"""The settings of a training run as options of a command: the fields of
:class:`fastchar.training.Config`, and a file of them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from fastchar.cli.options import typed
from fastchar.files import InputError
from fastchar.training.config import DEFAULTS, Config, read_yaml, without_none


def command(
    run: Callable[..., None], *, resume: str, own: Sequence[inspect.Parameter] = ()
) -> Callable[..., None]:
    """``run(ctx, **settings)`` with a signature that has DATA, ``--config``, ``--resume``, whose
    help is ``resume``, and an option for each field of the configuration.

    ``own``: further options, each of which takes the place of the field of its name, if any.
    """
    hints = typing.get_type_hints(Config)
    kind = inspect.Parameter
    parameters = [
        kind("ctx", kind.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        keyword("data", str | None, typer.Argument(metavar="DATA", help="Pairs or text.")),
        *own,
        keyword(
            "config",
            str | None,
            typer.Option(
                metavar="FILE",
                help="YAML with any of these settings; options on the command line win.",
            ),
        ),
        keyword("resume", str | None, typer.Option(metavar="FOLDER", help=resume)),
    ]
    names = {parameter.name for parameter in parameters}
    for field in dataclasses.fields(Config):
        if field.name not in names:
            parameters.append(_option(field, hints[field.name]))

    def wrapped(*args: Any, **kwargs: Any) -> None:
        run(*args, **kwargs)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {}
    return wrapped


def given(ctx: typer.Context, settings: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The folder to resume, if any, and the settings that were typed or stand in the file.

    Raises :class:`InputError` where there are both, or neither a folder nor data.
    """
    settings = dict(settings)
    resumed = settings.pop("resume")
    file = settings.pop("config")
    found = {} if file is None else read_yaml(file)
    found |= {name: value for name, value in settings.items() if typed(ctx, name)}
    if resumed is not None and found:
        names = ", ".join(sorted(found))
        raise InputError(f"--resume: expected no other settings (the run's own hold), got {names}")
    if resumed is None and found.get("data") is None:
        raise InputError("DATA: expected a file (or - for standard input), got none")
    return resumed, found


def keyword(name: str, annotation: Any, info: Any, default: Any = None) -> inspect.Parameter:
    """One option of :func:`command`, as typer reads it from a signature."""
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
    return keyword(field.name, hint, info, field.default)
