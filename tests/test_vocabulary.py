"""Vocabulary: every text goes in, what is known comes out as it was, nothing crashes."""

import json
import pickle
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fastchar.text import Vocabulary, pad

SURROGATES = ["Cs"]  # the Unicode category that no UTF-8 text has
ANY_TEXT = st.text()
UTF8_TEXT = st.text(st.characters(exclude_categories=SURROGATES))


def test_special_symbols_have_fixed_ids() -> None:
    """<pad> <bos> <eos> <unk> are 0 to 3 in every mode, and `symbols` is indexed by id."""
    for vocabulary in (
        Vocabulary("ab"),
        Vocabulary(mode="bytes"),
        Vocabulary(["AH", "B"], mode="separated"),
    ):
        assert vocabulary.symbols[:4] == ("<pad>", "<bos>", "<eos>", "<unk>")
        assert (vocabulary.pad_id, vocabulary.bos_id) == (0, 1)
        assert (vocabulary.eos_id, vocabulary.unk_id) == (2, 3)
        assert len(vocabulary) == len(vocabulary.symbols)
    assert Vocabulary("ab").encode("ba", bos=True, eos=True) == [1, 5, 4, 2]


@given(ANY_TEXT)
@example("\ud800")
def test_chars_round_trip(text: str) -> None:
    """A text of known code points survives, combining marks and lone surrogates as well."""
    vocabulary = Vocabulary.build([text])
    assert vocabulary.decode(vocabulary.encode(text, bos=True, eos=True)) == text
    assert vocabulary.join(vocabulary.split(text)) == text


@given(UTF8_TEXT)
def test_bytes_round_trip(text: str) -> None:
    """Every text survives in byte mode, and none has an unknown symbol."""
    vocabulary = Vocabulary(mode="bytes")
    ids = vocabulary.encode(text)
    assert vocabulary.unk_id not in ids
    assert ids == [b + 4 for b in text.encode()]
    assert vocabulary.decode(ids) == text == vocabulary.join(vocabulary.split(text))


@given(st.lists(st.just("\n") | st.text(st.characters(exclude_characters="|\n"), min_size=1)))
def test_separated_round_trip(symbols: list[str]) -> None:
    """Symbols of any length survive with a separator of one's own."""
    vocabulary = Vocabulary.build(["|".join(symbols)], mode="separated", separator="|")
    assert vocabulary.split("|".join(symbols)) == symbols
    text = vocabulary.decode(vocabulary.encode("|".join(symbols)))
    assert text == re.sub(r"\|?\n\|?", "\n", "|".join(symbols))  # lines end without one
    assert vocabulary.split(text) == symbols


def test_separators_in_a_row_count_as_one() -> None:
    """Stray blanks in a phone string are no symbols."""
    assert Vocabulary.build(["AH  B "], mode="separated").split(" AH   B") == ["AH", "B"]


def test_a_line_end_is_a_symbol_of_its_own() -> None:
    """In a text of a word a line, the last phone of one and the first of the next are two."""
    text = "K AE T\nD AO G\n\nAH"
    vocabulary = Vocabulary.build([text], mode="separated")
    assert vocabulary.split(text) == ["K", "AE", "T", "\n", "D", "AO", "G", "\n", "\n", "AH"]
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert "".join(vocabulary.decode_stream(vocabulary.encode("K AE"), after="T\n")) == "K AE"
    assert Vocabulary.build(["AH B\nK"], mode="separated", separator="\n").split("K\nAH B") == [
        "K",
        "AH B",
    ]


@given(ANY_TEXT, st.sampled_from(["chars", "bytes", "separated"]))
@example("\ud800", "bytes")
def test_unseen_symbols_never_crash(text: str, mode: str) -> None:
    """Any text can be encoded with any vocabulary, and what comes of it decoded."""
    vocabulary = Vocabulary.build(["ab"], mode=mode)
    ids = vocabulary.encode(text, eos=True)
    assert all(0 <= i < len(vocabulary) for i in ids)
    assert isinstance(vocabulary.decode(ids), str)


def test_unknown_symbols_show() -> None:
    """<unk> decodes to U+FFFD, between separators to <unk>."""
    assert Vocabulary("ab").decode([4, 3, 5]) == "a\ufffdb"
    assert Vocabulary(["AH"], mode="separated").decode([4, 3]) == "AH <unk>"
    assert Vocabulary(mode="bytes").decode([3]) == "\ufffd"


def test_normalization() -> None:
    """With NFC, e and its combining acute are the one code point; without, they are two."""
    assert Vocabulary.build(["é"], normalize="NFC").encode("e\u0301") == [4]
    plain = Vocabulary.build(["e\u0301"])
    assert len(plain.encode("e\u0301")) == 2
    assert plain.encode("é") == [plain.unk_id]
    # What a vocabulary is built of is normalised too.
    assert Vocabulary.build(["e\u0301"], normalize="NFC") == Vocabulary("é", normalize="NFC")


def test_lowercase() -> None:
    """`lowercase` applies to what is built and to what is encoded."""
    vocabulary = Vocabulary.build(["AbB"], lowercase=True)
    assert vocabulary.symbols[4:] == ("a", "b")
    assert vocabulary.encode("BA") == [5, 4]


def test_emoji_sequences_survive() -> None:
    """A family of four joined by zero-width joiners is seven code points and comes back whole."""
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
    vocabulary = Vocabulary.build([family])
    assert len(vocabulary.encode(family)) == 7
    assert vocabulary.decode(vocabulary.encode(family)) == family


@given(st.lists(st.integers(0, 255)))
def test_invalid_utf8_decodes_with_replacement(data: list[int]) -> None:
    """Byte ids in any order decode as Python's own replacing decoder does."""
    vocabulary = Vocabulary(mode="bytes")
    assert vocabulary.decode([b + 4 for b in data]) == bytes(data).decode("utf-8", "replace")


def test_stream_gives_whole_characters() -> None:
    """A character of several bytes comes as one piece, with its last byte."""
    vocabulary = Vocabulary(mode="bytes")
    assert list(vocabulary.decode_stream(vocabulary.encode("aé😀"))) == ["a", "é", "😀"]
    assert list(vocabulary.decode_stream(vocabulary.encode("a😀")[:-1])) == ["a", "\ufffd"]


def test_text_cannot_spell_a_special_id() -> None:
    """<eos> in a text is text: a symbol of its own name, which never ends a sequence."""
    vocabulary = Vocabulary.build(["<eos> AH"], mode="separated")
    ids = vocabulary.encode("<eos> AH")
    assert min(ids) > vocabulary.unk_id
    assert vocabulary.decode(ids) == "<eos> AH"


def test_decode_stops_at_eos_and_skips_padding() -> None:
    """What stands after <eos> is never read; tensors are welcome."""
    assert Vocabulary("ab").decode(torch.tensor([1, 4, 0, 5, 2, 4])) == "ab"


def test_build_counts_and_sorts() -> None:
    """Order of the texts makes no difference; rare symbols are left out and counted as <unk>."""
    vocabulary = Vocabulary.build(["baa", "c"], min_count=2)
    assert vocabulary.symbols[4:] == ("a",)
    assert vocabulary.counts == (0, 0, 0, 2, 2)
    assert Vocabulary.build(["ab", "c"]) == Vocabulary.build(["c", "ba"])
    assert Vocabulary.build(["ab"], mode="bytes").counts[4 + ord("b")] == 1


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary.build(["aé😀\ud800"], normalize="NFD", lowercase=True),
        Vocabulary.build(["AH|B C"], mode="separated", separator="|"),
        Vocabulary(mode="bytes"),
        Vocabulary("ab", counts=torch.tensor([0, 0, 0, 1, 5, 2])),
    ],
    ids=lambda v: f"{v.mode}-{len(v)}",
)
def test_survives_json_and_pickle(vocabulary: Vocabulary) -> None:
    """What comes back encodes every text alike, and knows its counts."""
    for copy in (
        Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))),
        pickle.loads(pickle.dumps(vocabulary)),
    ):
        assert copy == vocabulary
        assert hash(copy) == hash(vocabulary)
        assert copy.counts == vocabulary.counts
        assert copy.encode("AÉ|B") == vocabulary.encode("AÉ|B")


def test_equal_are_those_that_encode_alike() -> None:
    """Each option that makes another text of a text makes another vocabulary."""
    plain = Vocabulary("ab", mode="separated")
    options = {"lowercase": True}, {"normalize": "NFC"}, {"separator": "|"}
    others = [Vocabulary("ab", mode="separated", **each) for each in options]
    others += [Vocabulary("ba", mode="separated"), Vocabulary("ab")]
    assert len({plain, *others}) == 6
    assert plain == Vocabulary("ab", mode="separated", counts=[0, 0, 0, 0, 1, 2])


def test_is_immutable() -> None:
    """A vocabulary can be shared between models: nothing about it can be set."""
    vocabulary = Vocabulary("ab")
    with pytest.raises(AttributeError):
        vocabulary.symbols = ()
    with pytest.raises(AttributeError):
        vocabulary.other = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symbols": "aa"}, "symbols: expected each one once, got several 'a'"),
        ({"symbols": ["ab"]}, "symbols: mode 'chars' expects one code point, got 'ab'"),
        ({"symbols": ["a b"], "mode": "separated"}, "symbols: expected no ' '"),
        ({"symbols": [""], "mode": "separated"}, "symbols: expected no ' '"),
        ({"symbols": ["T\nD"], "mode": "separated"}, "symbols: expected a line end"),
        ({"symbols": "a", "mode": "words"}, "mode: expected one of"),
        ({"symbols": "a", "normalize": "nfc"}, "normalize: expected one of"),
        ({"symbols": "a", "separator": ""}, "separator: expected at least one"),
        (
            {"symbols": "a", "mode": "separated", "separator": "X", "lowercase": True},
            "separator: expected one that lower-casing and normalisation keep, got 'X'",
        ),
        (
            {"symbols": "a", "mode": "separated", "separator": "\u3000", "normalize": "NFKC"},
            "separator: expected one that lower-casing",
        ),
        ({"symbols": "a", "mode": "bytes"}, "symbols: mode 'bytes' expects no symbols"),
        ({}, "symbols: mode 'chars' expects symbols"),
        ({"symbols": "a", "counts": [1]}, "counts: expected 5 numbers, got 1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    """One clear message names the argument, what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        Vocabulary(**arguments)


def test_bad_input() -> None:
    """A wrong type is a TypeError, an id beyond the vocabulary a ValueError."""
    with pytest.raises(TypeError, match="text: expected str, got int"):
        Vocabulary("ab").encode(3)
    with pytest.raises(TypeError, match="texts: expected several texts"):
        Vocabulary.build("ab")
    with pytest.raises(ValueError, match="ids: expected 0 to 5, got 6"):
        Vocabulary("ab").decode([6])
    with pytest.raises(ValueError, match="vocabulary: expected"):
        Vocabulary.from_dict({"mode": "chars"})


def test_pad() -> None:
    """Sequences become columns, <pad> after each end; none and empty ones are no exception."""
    ids, lengths = pad([[4, 5], [], [6]])
    assert ids.tolist() == [[4, 0, 6], [5, 0, 0]]
    assert lengths.tolist() == [2, 0, 1]
    assert ids.is_contiguous()
    assert pad([])[0].shape == (0, 0)
    assert pad([[], []])[0].shape == (0, 2)
