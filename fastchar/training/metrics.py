"""Error rates against several references, and what was taken for what.

A word is right if it equals any of its references. Its edits are counted against the closest
one (Levenshtein distance over symbols; among equally close ones the shortest, the stricter
reading), and the symbol error rate (PER for phones, CER for characters) is all edits over all
symbols of those closest references.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

Symbols = Sequence[str]
# (symbol of the reference, symbol of the hypothesis); None stands for nothing.
Confusion = tuple[str | None, str | None]


@dataclass(frozen=True)
class ErrorRates:
    """Counts that add up: rates of a whole set are sums over sums, not means of rates."""

    words: int = 0
    wrong: int = 0
    symbols: int = 0
    edits: int = 0

    def __add__(self, other: ErrorRates) -> ErrorRates:
        return ErrorRates(
            self.words + other.words,
            self.wrong + other.wrong,
            self.symbols + other.symbols,
            self.edits + other.edits,
        )

    @property
    def wer(self) -> float:
        """The share of words that equal none of their references, 0 to 1."""
        return self.wrong / max(self.words, 1)

    @property
    def per(self) -> float:
        """Edits per symbol of the closest references; may exceed 1."""
        return self.edits / max(self.symbols, 1)


def closest(hypothesis: Symbols, references: Sequence[Symbols]) -> tuple[Symbols, int]:
    """The reference fewest edits away from ``hypothesis``, and how many these are."""
    if not references:
        raise ValueError("references: expected at least one, got none")
    scored = [(Levenshtein.distance(hypothesis, r), len(r), r) for r in references]
    edits, _, reference = min(scored, key=lambda entry: entry[:2])
    return reference, edits


def count_errors(hypothesis: Symbols, references: Sequence[Symbols]) -> ErrorRates:
    """The counts of one word."""
    reference, edits = closest(hypothesis, references)
    return ErrorRates(words=1, wrong=int(edits > 0), symbols=len(reference), edits=edits)


def confusions(reference: Symbols, hypothesis: Symbols) -> Counter[Confusion]:
    """The edits of one best alignment: (a, b) for a read as b, (a, None) for a left out,
    (None, b) for b put in."""
    found: Counter[Confusion] = Counter()
    for edit in Levenshtein.editops(reference, hypothesis):
        left = None if edit.tag == "insert" else reference[edit.src_pos]
        right = None if edit.tag == "delete" else hypothesis[edit.dest_pos]
        found[left, right] += 1
    return found
