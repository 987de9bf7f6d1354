"""A word on symbols that a model has never seen, without which its answers look like its fault."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fastchar.analysis.symbols import visible

if TYPE_CHECKING:
    from fastchar.text import Vocabulary

SHOWN = 5


class Unseen:
    """Counts the symbols of texts, and those of them that ``vocabulary`` lacks."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.total = 0
        self.unseen: Counter[str] = Counter()

    def add(self, text: str) -> None:
        symbols = self.vocabulary.split(text)
        self.total += len(symbols)
        self.unseen.update(s for s in symbols if s not in self.vocabulary)

    def line(self) -> str | None:
        """What to say of those that it lacks, or None if there are none."""
        if not self.unseen:
            return None
        most = self.unseen.most_common(SHOWN)
        which = ", ".join(f"{visible(symbol)} {times:,}" for symbol, times in most)
        rest = ", ..." if len(self.unseen) > SHOWN else ""
        return (
            f"{self.unseen.total():,} of {self.total:,} symbols read as <unk>, never seen in "
            f"training: {which}{rest}"
        )
