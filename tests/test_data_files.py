"""Reading and writing: strict about what comes in, atomic about what goes out."""

from __future__ import annotations

import errno
import gzip
import io
import os
import sys
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from fastchar.files import InputError, read_lines, read_pairs, read_text, write_beside
from fastchar.training.config import Config
from fastchar.training.data import PairData, TextData, make_data, read_data, write_data
from fastchar.training.splits import references_of, split_by_source

BAD_PAIRS = [
    (b"a\tb\nword\n", ", line 2: expected source<TAB>target, got 1 column: 'word'"),
    (b"a\tb\tc\n", ", line 1: expected source<TAB>target, got 3 columns: 'a\\tb\\tc'"),
    (b"a\tb\n\n\tx\n", ", line 3: expected source<TAB>target, got an empty source: '\\tx'"),
    (b"a\t \n", ", line 1: expected source<TAB>target, got an empty target: 'a\\t '"),
    (b"a\tb\nc\t\xff\n", ", line 2: expected UTF-8 text, got byte 0xFF"),
    (b"a\tb\nc\x00\td\n\xff", ", line 2: expected UTF-8 text, got byte 0x00"),
    ("a\tb\n".encode("utf-16-le"), ", line 1: expected UTF-8 text, got byte 0x00"),
    (b"", ": expected lines source<TAB>target, got none"),
    (b"\n  \n", ": expected lines source<TAB>target, got none"),
]


@pytest.mark.parametrize(("content", "message"), BAD_PAIRS)
def test_bad_pairs_name_file_line_expected_and_got(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """One line that says where, what was expected, what came."""
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_pairs(str(path))
    assert str(error.value) == f"{path}{message}"
    assert "\n" not in str(error.value)


def test_pairs_in_every_dress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain, gzip, standard input; blank lines, CRLF, a byte order mark, no end of line."""
    content = "\ufeffcafé\tK AE F EY\r\n\r\ncafé\tK AH F EY\n🎉 x\tP".encode()
    expected = [("café", "K AE F EY"), ("café", "K AH F EY"), ("🎉 x", "P")]
    plain, zipped = tmp_path / "a.tsv", tmp_path / "a.tsv.gz"
    plain.write_bytes(content)
    zipped.write_bytes(gzip.compress(content))
    assert read_pairs(str(plain)) == read_pairs(str(zipped)) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_pairs("-") == expected
    assert references_of(expected) == {"café": ["K AE F EY", "K AH F EY"], "🎉 x": ["P"]}


def test_stdin_is_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not `-`, which names nothing."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"word\n")))
    with pytest.raises(InputError, match=r"^<stdin>, line 1: "):
        read_pairs("-")


def test_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a daemon has it."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match=r"^<stdin>: expected a readable file, got: it is closed"):
        list(read_lines("-"))


# By name: in what is compressed is the time, and processes that share tests out call them the same.
@pytest.mark.parametrize(
    "content", [b"a\tb\n", gzip.compress(b"a\tb\n")[:-6]], ids=["none", "cut short"]
)
def test_bad_gzip(tmp_path: Path, content: bytes) -> None:
    """No gzip at all, and one cut short."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected a gzip file"):
        read_pairs(str(path))


def test_missing_and_unreadable(tmp_path: Path) -> None:
    """A file that is not there, and a folder."""
    with pytest.raises(InputError, match=r"expected a readable file, got: No such file"):
        list(read_lines(str(tmp_path / "none.tsv")))
    with pytest.raises(InputError, match=r"expected a readable file, got: Is a directory"):
        list(read_lines(str(tmp_path)))


def test_text(tmp_path: Path) -> None:
    """All of it, whatever it is, with `\\n` line ends; bad UTF-8 by its line; empty is an error."""
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffa\r\n\tb\n".encode())
    assert read_text(str(path)) == "a\n\tb\n"
    path.write_bytes(b"one\ntwo\n\xe9t\xe9")
    with pytest.raises(InputError, match=r"text.txt, line 3: expected UTF-8 text, got byte 0xE9"):
        read_text(str(path))
    path.write_bytes(b"")
    with pytest.raises(InputError, match="got an empty file"):
        read_text(str(path))


@pytest.mark.parametrize(
    ("model", "content"),
    [("char_lm", "\ufeff\ufeffa\r\r\nb\rc\n\n"), ("seq2seq", "\ufeff\ufeffa\tb\r\r\nc \rd\te")],
)
def test_what_is_kept_is_what_was_read(
    tmp_path: Path, model: Literal["char_lm", "seq2seq"], content: str
) -> None:
    """Data from a pipe, which a resumed run reads from the run folder."""
    (tmp_path / "data").write_bytes(content.encode())
    read, _ = read_data(Config(data=str(tmp_path / "data"), model=model))
    write_data(read, tmp_path / "kept.gz")
    assert read_data(Config(data=str(tmp_path / "kept.gz"), model=model)) == (read, None)


def test_two_spellings_of_a_source_are_one_source() -> None:
    """Nobody is tested on what, in the normal form that was asked for, is in the training data."""
    words = [f"é{n}ü" for n in range(200)]
    pairs = [(normalize(form, w), form) for w in words for form in ("NFC", "NFD")]
    data = make_data(Config(data="-", normalize="NFC", hidden_size=1), pairs)
    assert isinstance(data, PairData)
    assert 2 < len(data.references) < 30
    assert all(targets == ["NFC", "NFD"] for targets in data.references.values())
    assert len(data.train.source) == 2 * (len(words) - len(data.references))


def test_blanks_between_symbols_make_no_other_source() -> None:
    """To a model of separated symbols `K AE T` is the same word with a blank at its end."""
    words = [f"K AE {n}" for n in range(200)]
    pairs = [(word + blank, target) for word in words for blank, target in (("", "x"), (" ", "y"))]
    data = make_data(Config(data="-", source_mode="separated", hidden_size=1), pairs)
    assert isinstance(data, PairData)
    assert all(targets == ["x", "y"] for targets in data.references.values())
    assert len(data.train.source) == 2 * (len(words) - len(data.references))


def test_held_out_pairs_are_read_as_those_to_train_on_are() -> None:
    """In the same normal form, targets too; what only they have is <unk> to the model."""
    held_out = [("ax", "e\u0301"), ("ax", "é"), ("a", "z")]
    config = Config(data="-", normalize="NFC", hidden_size=1)
    data = make_data(config, [("a", "e\u0301"), ("b", "é")], held_out)
    assert isinstance(data, PairData)
    assert (data.source.symbols[4:], data.target.symbols[4:]) == (("a", "b"), ("é",))
    assert data.target.encode("e\u0301") == [4]
    assert data.references == {"ax": ["é"], "a": ["z"]}
    assert data.dev_references == [[["é"]], [["z"]]]


def test_a_text_holds_out_its_last_tenth() -> None:
    """What only that has is <unk> to the model; all of it is in the normal form."""
    config = Config(data="-", model="char_lm", normalize="NFC", hidden_size=1, batch_size=2)
    data = make_data(config, "ae\u0301b" * 45 + "xe\u0301" * 6 + "ab")
    assert isinstance(data, TextData)
    assert data.vocabulary.symbols[4:] == ("a", "b", "é")
    assert data.vocabulary.decode(data.train.ids.t().flatten()) == ("aéb" * 45)[:-1]
    assert data.vocabulary.decode(data.dev.ids.t().flatten()) == "\ufffdé" * 6 + "a"


@pytest.mark.parametrize("count", [2, 3, 10, 40])
def test_few_sources_are_enough(count: int) -> None:
    """Even if none of them is among the 5 % by its hash, as happens to two files of 10 in three."""
    for first in range(20):
        pairs = [(f"{first} {n}", target) for n in range(count) for target in "AB"]
        data = make_data(Config(data="-"), pairs)
        assert isinstance(data, PairData)
        assert 1 <= len(data.references) < count
        assert len(data.train.source) == 2 * (count - len(data.references))


def test_write_beside_is_all_or_nothing(tmp_path: Path) -> None:
    """A failure leaves what was there before, and nothing else."""
    path = tmp_path / "out.tsv"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), write_beside(path) as stream:
        stream.write(f"half {1 / 0}")
    assert path.read_text() == "before"
    with write_beside(path) as stream:
        stream.write("whole")
    assert path.read_text() == "whole"
    with write_beside(tmp_path / "out.gz") as stream:
        stream.write("zipped")
    assert read_text(str(tmp_path / "out.gz")) == "zipped"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gz", "out.tsv"]
    with pytest.raises(InputError, match="expected a folder to write in"):
        write_beside(tmp_path / "none" / "out").__enter__()
    with pytest.raises(InputError, match="expected a file to write, got a folder"):
        write_beside(tmp_path).__enter__()
    with pytest.raises(InputError, match="expected a file to write, got a folder"):
        write_beside("").__enter__()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO])
def test_a_full_disk_has_a_name(tmp_path: Path, number: int) -> None:
    """That of the file for which there is no room; Python leaves it out."""
    text = os.strerror(number)
    with pytest.raises(OSError, match=text) as error, write_beside(tmp_path / "out"):
        raise OSError(number, text)
    assert error.value.filename == str(tmp_path / "out")
    with pytest.raises(OSError, match=text) as error, write_beside(tmp_path / "out"):
        raise OSError(number, text, "another")  # which keeps its own
    assert error.value.filename == "another"


def test_write_beside_spares_links_and_devices(tmp_path: Path) -> None:
    """Only a file is ever replaced: not a link, and above all not /dev/null."""
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with write_beside(tmp_path / "link") as stream:
        stream.write("after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "after"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with write_beside(pipe) as stream:
        stream.write("through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_no_source_straddles_a_split() -> None:
    """All targets of a source share its part, wherever they stand; shares are about right."""
    words = [f"word{i}" for i in range(4000)]
    pairs = [(w, "A") for w in words] + [(w, "B") for w in words[::-1]]
    parts = split_by_source(pairs, (92, 3, 5))
    sources = [{s for s, _ in part} for part in parts]
    assert sum(map(len, sources)) == len(set.union(*sources)) == len(words)
    assert all(len(part) == 2 * len(s) for part, s in zip(parts, sources, strict=True))
    for s, percent in zip(sources, (92, 3, 5), strict=True):
        assert len(s) == pytest.approx(len(words) * percent / 100, rel=0.2)
    # The parts do not depend on what else is there.
    assert split_by_source(pairs[::3], (92, 3, 5))[1] == [p for p in pairs[::3] if p in parts[1]]


def test_a_part_can_be_split_again() -> None:
    """Without the salt, the last 5 % of the first 92 % would be empty."""
    first = split_by_source([(f"word{i}", "A") for i in range(4000)], (92, 8))[0]
    assert split_by_source(first, (95, 5))[1] == []
    again = split_by_source(first, (95, 5), salt="held out")[1]
    assert len(again) == pytest.approx(0.05 * len(first), rel=0.3)
