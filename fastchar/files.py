"""Files of the command line and of runs: strict about what comes in, atomic about what goes out."""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import shutil
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
            if sys.stdin is None:
                raise InputError("<stdin>: expected a readable file, got: it is closed")
            with _stdin() as stream:
                yield stream
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


@contextmanager
def _stdin() -> Iterator[BinaryIO]:
    """Standard input with a buffer of its own.

    Python asks for the lock of ``sys.stdin.buffer`` when it exits, and dies of a fatal error if a
    thread still waits in a read with it, as after Ctrl-C.
    """
    try:
        number = sys.stdin.fileno()
    except io.UnsupportedOperation:  # something that stands in for it, without a lock
        yield sys.stdin.buffer
        return
    with open(number, "rb", closefd=False) as stream:
        yield stream


def _decode(raw: bytes, path: str, line: int) -> str:
    """UTF-8 without NUL, which stands in other encodings and in what is no text at all."""
    bad = raw.find(b"\0")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = error.start if bad < 0 else min(bad, error.start)
    if bad < 0:
        return text
    line += raw.count(b"\n", 0, bad)
    raise InputError(
        f"{name_of(path)}, line {line}: expected UTF-8 text, got byte 0x{raw[bad]:02X}"
    )


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, as they come, without their ends, numbered from 1.

    ``-`` is standard input; a name that ends in ``.gz`` is unzipped; byte order marks are dropped.
    Raises :class:`InputError`.
    """
    with _open_bytes(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = _decode(raw, path, number).rstrip("\r\n")
            # All of them, here and below: what is read, written and read again is the same.
            yield number, line.lstrip("\ufeff") if number == 1 else line


def read_text(path: str) -> str:
    """A whole UTF-8 file, from where :func:`read_lines` reads; line ends become ``\\n``."""
    with _open_bytes(path) as stream:
        text = _decode(stream.read(), path, 1).lstrip("\ufeff")
    if not text:
        raise InputError(f"{name_of(path)}: expected text, got an empty file")
    return re.sub("\r+\n", "\n", text)


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
                f"{shorten(line)!r}"
            )
        pairs.append((columns[0], columns[1]))
    if not pairs:
        raise InputError(f"{name_of(path)}: expected lines source<TAB>target, got none")
    return pairs


def one_cell(text: str) -> str:
    """``text`` for a column of a line: what would end either, as a model of bytes may write, reads
    U+FFFD."""
    return re.sub("[\t\n\r]", "\ufffd", text)


def shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A full or broken disk, or a file too large for it, which Python tells without a name, has
    no room for ``path``."""
    try:
        yield
    except OSError as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        if error.errno in full and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def _making(path: str | Path) -> Iterator[None]:
    """What cannot be made beside ``path`` is the fault of the folder that it is in."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{Path(path).parent}: expected a folder to write in: {error.strerror}"
        ) from None


@contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """Where to write a file that takes the place of ``path`` when the block ends well.

    When it does not, what was written vanishes. A link stays and what it names is replaced; what
    is no file, such as ``/dev/stdout``, is written to as it is. Raises :class:`InputError` before
    the block for a folder, and for a place in which nothing can be made.
    """
    if str(path) == "-":
        raise InputError("-: expected the name of a file to write; /dev/stdout is one")
    if os.path.isdir(Path(path)):  # so is the name "", as an unset variable of a shell gives it
        raise InputError(f"{Path(path)}: expected a file to write, got a folder")
    real = Path(path).resolve()
    if real.exists() and not real.is_file():
        yield real
        return
    partial = real.with_name(f".{real.name}.partial")
    with _making(path):
        partial.touch()
    try:
        with writing(path):
            yield partial
        os.replace(partial, real)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """Where to write a folder that becomes ``path`` when the block ends well, as :func:`beside`.

    Raises :class:`InputError` before the block if something is there already, but an empty folder,
    and for a place in which nothing can be made.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise InputError(f"{path}: expected no such file or folder yet, got one; choose another")
    real = path.resolve()
    partial = real.with_name(f".{real.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    with _making(path):
        partial.mkdir()
    try:
        with writing(path):
            yield partial
        os.replace(partial, real)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def write_beside(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 text file, zipped if its name ends in ``.gz``, written as :func:`beside` does.

    ``/dev/stdout`` and ``/dev/stderr`` are written on from where they are: the shell may have made
    files of them, which have more in them than this.
    """
    number = {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path))
    if number is not None:
        with open(os.dup(number), "w", encoding="utf-8", newline="\n") as stream:
            yield stream
        return
    open_ = gzip.open if str(path).endswith(".gz") else open
    with beside(path) as place, open_(place, "wt", encoding="utf-8", newline="\n") as stream:
        yield stream
