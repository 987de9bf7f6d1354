"""``fastchar bench``: the benchmarks, which a source checkout has and an installed package not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fastchar.files import InputError

ROOT = Path(__file__).parents[2]


def register(app: typer.Typer) -> None:
    app.command(
        "bench",
        help="Run the benchmarks of a source checkout.",
        # Everything, --help too, is for the benchmarks' own parser.
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )(bench)


def bench(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
    if not (ROOT / "benchmarks" / "run.py").is_file() or not (ROOT / "csrc").is_dir():
        raise InputError(
            "bench: the benchmarks are in fastchar's source checkout, not in the installed "
            "package; there, make bench builds and runs them"
        )
    sys.path.insert(0, str(ROOT))
    from benchmarks.run import main

    main(arguments or [])
