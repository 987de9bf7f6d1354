"""``fastchar export``: a model as ONNX, for programs without torch."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from fastchar.cli.options import Model, open_model, paragraphs
from fastchar.files import InputError, folder_beside

INSTALL = "pip install 'fastchar[export]'"
HELP = """Write a model as ONNX, for onnxruntime without torch or fastchar.

A folder with config.json, which has the vocabularies, and for a seq2seq model encoder.onnx and
decoder.onnx, one step of a search, for a language model step.onnx; examples/onnx_g2p.py uses them.
What onnxruntime makes of them is compared with the model first.
"""


def register(app: typer.Typer) -> None:
    app.command("export", help=paragraphs(HELP))(export)


def export(
    model: Model,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder.", show_default=False)],
) -> None:
    if find_spec("onnx") is None:
        raise InputError("export: expected the package onnx, got none: " + INSTALL)
    # torch reads it once, when it is imported; it warns of shapes that the graphs do not need.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with folder_beside(out) as folder:
        from fastchar.export.check import DifferenceError, check
        from fastchar.export.write import write

        loaded = open_model(model, "cpu")
        names = write(loaded, folder)
        try:
            difference = check(loaded, folder) if find_spec("onnxruntime") else None
        except DifferenceError as error:
            typer.echo(
                f"fastchar: onnxruntime does not compute what the model does: {error}", err=True
            )
            raise typer.Exit(1) from None
    typer.echo(f"{', '.join(names)} in {out}")
    if difference is None:
        typer.echo(
            f"fastchar: not compared with the model, for want of onnxruntime: {INSTALL}", err=True
        )
    else:
        typer.echo(f"largest difference between onnxruntime and the model: {difference:.1e}")
