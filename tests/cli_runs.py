"""Running the command line in tests, and a folder with what it needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training_data import few_pairs, write_pairs
from typer.testing import CliRunner, Result

from fastchar.cli import app

SMALL = [
    "--embedding-dim",
    "16",
    "--hidden-size",
    "24",
    "--batch-size",
    "16",
    "--learning-rate",
    "0.01",
]


def run(*args: Any, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args], input=stdin)


def ok(*args: Any, stdin: str | bytes | None = None) -> str:
    result = run(*args, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*args: Any, stdin: str | bytes | None = None) -> str:
    """The one line on standard error that goes with exit code 2."""
    result = run(*args, stdin=stdin)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@contextlib.contextmanager
def pipe(content: str) -> Iterator[str]:
    """The name of a pipe that gives `content`, which it has room for, and then ends."""
    reader, writer = os.pipe()
    os.write(writer, content.encode())
    os.close(writer)
    yield f"/dev/fd/{reader}"
    os.close(reader)


def make_home(home: Path) -> Path:
    """Pairs and a text in `home`, and a run trained on each by the command line."""
    write_pairs(home / "pairs.tsv", few_pairs())
    (home / "config.yaml").write_text("epochs: 2\nhidden-size: 999\nattention: dot\n")
    ok("train", home / "pairs.tsv", "--out", home / "g2p", "--config", home / "config.yaml", *SMALL)
    words = " ".join(word for word, _ in few_pairs())
    (home / "text.txt").write_text(words * 3)
    ok(
        *("train", home / "text.txt", "--out", home / "lm", "--model", "char_lm", "--epochs", 2),
        *("--chunk", 20, *SMALL),
    )
    return home
