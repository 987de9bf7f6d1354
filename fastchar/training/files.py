"""Files of a run: strict about what comes in, atomic about what goes out."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

Pair = tuple[str, str]


class InputError(ValueError):
    """Bad input from outside: one line that names the place, what was expected and what came."""


def name_of(path: str) -> str:
    """What to call ``path`` in a message."""
    return "<stdin>" if path == "-" else path


@contextmanager
def _open_bytes(path: str) -> Iterator[BinaryIO | gzip.GzipFile]:
    try:
        if path == "-":
            yield sys.stdin.buffer
        elif path.endswith(".gz"):
            with gzip.open(path) as stream:
                yield stream
        else:
            with open(path, "rb") as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name_of(path)}: expected a gzip file, got a bad one ({reason})"
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{name_of(path)}: expected a readable file, got: {reason}") from None


def _decode(raw: bytes, path: str, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        byte = f"byte 0x{raw[error.start]:02X}"
        raise InputError(f"{name_of(path)}, line {line}: expected UTF-8 text, got {byte}") from None


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, as they come, without their ends, numbered from 1.

    ``-`` is standard input; a name that ends in ``.gz`` is unzipped; a byte order mark is dropped.
    Raises :class:`InputError`.
    """
    with _open_bytes(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = _decode(raw, path, number).rstrip("\r\n")
            yield number, line.removeprefix("\ufeff") if number == 1 else line


def read_text(path: str) -> str:
    """A whole UTF-8 file, from where :func:`read_lines` reads; line ends become ``\\n``."""
    with _open_bytes(path) as stream:
        text = _decode(stream.read(), path, 1).removeprefix("\ufeff")
    if not text:
        raise InputError(f"{name_of(path)}: expected text, got an empty file")
    return text.replace("\r\n", "\n")


def read_pairs(path: str) -> list[Pair]:
    """The pairs of a file with one ``source<TAB>target`` a line; blank lines are skipped.

    A source may stand on several lines, with a target each. Raises :class:`InputError`.
    """
    pairs: list[Pair] = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != 2 or not all(c.strip() for c in columns):
            got = f"{len(columns)} column{'s' * (len(columns) > 1)}"
            if len(columns) == 2:
                got = f"an empty {'target' if columns[0].strip() else 'source'}"
            raise InputError(
                f"{name_of(path)}, line {number}: expected source<TAB>target, got {got}: "
                f"{_shorten(line)!r}"
            )
        pairs.append((columns[0], columns[1]))
    if not pairs:
        raise InputError(f"{name_of(path)}: expected lines source<TAB>target, got none")
    return pairs


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


@contextmanager
def write_beside(path: str | Path) -> Iterator[TextIO]:
    """A text file that takes the place of ``path`` when the block ends well, else vanishes."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.partial")
    try:
        with _open_to_write(beside) as stream:
            yield stream
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _open_to_write(path: Path) -> TextIO:
    try:
        if path.name.endswith(".gz.partial"):
            return gzip.open(path, "wt", encoding="utf-8")
        return open(path, "w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(
            f"{path.parent}: expected a folder to write in: {error.strerror}"
        ) from None
