"""What a person at a terminal sees: lines that stay and bars that go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
Say = Callable[[str], None]


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: what users typed is no markup, nor :x: an emoji."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def make_bar(console: Console, *, live: bool = False) -> Progress:
    """A bar that vanishes when done, and is not there at all where nobody watches.

    With ``live``, tasks have a field ``metrics``, text at the end of the bar, and it is drawn when
    told to, by no thread of its own.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    ]
    if live:
        columns.append(TextColumn("{task.fields[metrics]}"))
    return Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        auto_refresh=not live,
    )


def track(items: Iterable[T], console: Console, description: str, total: int) -> Iterator[T]:
    """``items`` as they are, under a bar."""
    with make_bar(console) as bar:
        yield from bar.track(items, total=total, description=description)


def clock(seconds: float) -> str:
    """75 as ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
