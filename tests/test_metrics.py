"""Error rates against several references: hand-computed cases, and a naive implementation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchar.training.metrics import ErrorRates, closest, confusions, count_errors

WORD = st.lists(st.sampled_from("abc"), max_size=6)


def _naive_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein's recursion, as in the textbook."""
    if not a or not b:
        return len(a) + len(b)
    keep_or_replace = _naive_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(keep_or_replace, 1 + min(_naive_distance(a[1:], b), _naive_distance(a, b[1:])))


def test_hand_computed() -> None:
    """K AE T for two references: one edit from the closest, which has four symbols."""
    references = [["K", "AE", "T", "S"], ["D", "AO", "G", "Z", "IH", "Z"]]
    assert count_errors(["K", "AE", "T"], references) == ErrorRates(1, 1, 4, 1)
    assert count_errors(["K", "AE", "T", "S"], references) == ErrorRates(1, 0, 4, 0)
    assert count_errors(["D", "AO", "G", "Z"], references) == ErrorRates(1, 1, 6, 2)
    # Equally close: the shorter counts, whichever comes first.
    for pair in (["a", ["b", "c"]], [["b", "c"], "a"]):
        assert count_errors(["b"], pair) == ErrorRates(1, 1, 1, 1)


def test_rates_of_a_set_are_sums_over_sums() -> None:
    """WER: words wrong of all words; PER: all edits of all symbols, not a mean of rates."""
    total = sum(
        (
            count_errors(list("ab"), [list("ab")]),
            count_errors(list("x"), [list("abcdefgh")]),
            count_errors(list(""), [list("ab"), list("a")]),
        ),
        ErrorRates(),
    )
    assert total == ErrorRates(words=3, wrong=2, symbols=11, edits=9)
    assert total.wer == pytest.approx(2 / 3)
    assert total.per == pytest.approx(9 / 11)
    assert ErrorRates().wer == ErrorRates().per == 0.0


@given(WORD, st.lists(WORD, min_size=1, max_size=4))
def test_against_the_naive_one(hypothesis: list[str], references: list[list[str]]) -> None:
    """The closest reference, the edits, and right if any reference matches, in any order."""
    distances = [_naive_distance(hypothesis, r) for r in references]
    edits = min(distances)
    length = min(len(r) for r, d in zip(references, distances, strict=True) if d == edits)
    found = count_errors(hypothesis, references)
    assert found == ErrorRates(1, int(hypothesis not in references), length, edits)
    assert found == count_errors(hypothesis, references[::-1])
    assert closest(hypothesis, references)[1] == edits


@given(WORD, WORD)
def test_confusions_are_a_best_alignment(reference: list[str], hypothesis: list[str]) -> None:
    """As many as there are edits, and they turn the reference's symbols into the hypothesis'."""
    found = confusions(reference, hypothesis)
    assert found.total() == _naive_distance(reference, hypothesis)
    assert all(expected != got for expected, got in found)
    for symbol in "abc":
        lost = sum(n for (expected, _), n in found.items() if expected == symbol)
        won = sum(n for (_, got), n in found.items() if got == symbol)
        assert hypothesis.count(symbol) - reference.count(symbol) == won - lost


def test_confusions_by_hand() -> None:
    """Replaced, left out, put in."""
    assert confusions(["K", "AE", "T"], ["K", "AA", "T"]) == {("AE", "AA"): 1}
    assert confusions(["K", "AE", "T"], ["K", "AE"]) == {("T", None): 1}
    assert confusions(["K", "AE", "T"], ["K", "AE", "T", "S"]) == {(None, "S"): 1}


def test_no_reference_is_refused() -> None:
    """A word without references has no error rate."""
    with pytest.raises(ValueError, match="at least one"):
        count_errors(["a"], [])
