"""Held-out data: chosen by a hash of the source, so that no source straddles two parts."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from fastchar.files import Pair


def split_by_source(
    pairs: Iterable[Pair], percent: Sequence[int], *, salt: str = ""
) -> list[list[Pair]]:
    """Deal ``pairs`` into ``len(percent)`` parts of about those shares, which add up to 100.

    The CRC-32 of the source decides, so that a source's part is the same everywhere and always,
    whatever else is in the data, and all of its targets share it. A ``salt`` makes another hash,
    so that a part can be split again.
    """
    if sum(percent) != 100 or min(percent) < 0:
        raise ValueError(f"percent: expected shares that add up to 100, got {list(percent)}")
    part_of = [part for part, share in enumerate(percent) for _ in range(share)]
    parts: list[list[Pair]] = [[] for _ in percent]
    for pair in pairs:
        parts[part_of[zlib.crc32((salt + pair[0]).encode()) % 100]].append(pair)
    return parts


def references_of(pairs: Iterable[Pair]) -> dict[str, list[str]]:
    """Every source's different targets, sources and targets in the order of the pairs."""
    references: dict[str, dict[str, None]] = {}
    for source, target in pairs:
        references.setdefault(source, {})[target] = None
    return {source: list(targets) for source, targets in references.items()}
