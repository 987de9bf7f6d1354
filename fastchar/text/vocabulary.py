"""Symbols to ids and back, for characters, UTF-8 bytes and separated symbols such as phones."""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

Mode = Literal["chars", "bytes", "separated"]
Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]

# Byte b is shown as itself where it is printable ASCII, else as <0xE9>; ids are b + 4.
BYTE_SYMBOLS = tuple(chr(b) if 0x20 <= b < 0x7F else f"<0x{b:02X}>" for b in range(256))
_BYTE_OF = {symbol: b for b, symbol in enumerate(BYTE_SYMBOLS)}


class Vocabulary:
    """An immutable, ordered set of symbols; ids 0 to 3 are <pad>, <bos>, <eos> and <unk>.

    Args:
        symbols: the symbols of ids 4, 5, ..., without the four special ones. Must be left out
            in mode `"bytes"`, which always has all 256 bytes.
        mode: what a symbol is. `"chars"`: a Unicode code point, so that combining marks and
            the parts of an emoji are symbols of their own and every text survives the round
            trip; `"bytes"`: a byte of the UTF-8 text, so that nothing is ever unknown;
            `"separated"`: what stands between `separator`s, such as phones; a line end is a symbol
            of its own, not a part of those beside it.
        separator: between symbols in mode `"separated"`; several in a row count as one. It must be
            one that `normalize` and `lowercase` leave as it is.
        normalize: Unicode normal form that every text is brought to first, `None` for as is.
            `"NFC"` makes one code point of e and its combining acute.
        lowercase: every text is lower-cased first.
        counts: how often each symbol of id 0, 1, ... was seen, for inspection only.

    What a text says never becomes a special id: the text `<eos>` is five characters, or one
    ordinary symbol. Two vocabularies are equal if they encode every text alike; `counts`
    have no part in it.

    Errors: `ValueError` for duplicate or malformed symbols and unknown options.
    """

    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2
    unk_id: ClassVar[int] = 3
    SPECIAL: ClassVar[tuple[str, ...]] = ("<pad>", "<bos>", "<eos>", "<unk>")

    __slots__ = ("_counts", "_ids", "_lowercase", "_mode", "_normalize", "_separator", "_symbols")

    def __init__(
        self,
        symbols: Iterable[str] | None = None,
        *,
        mode: Mode = "chars",
        separator: str = " ",
        normalize: Normalization | None = None,
        lowercase: bool = False,
        counts: Sequence[int] | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode: expected one of {get_args(Mode)}, got {mode!r}")
        if normalize is not None and normalize not in get_args(Normalization):
            expected = (None, *get_args(Normalization))
            raise ValueError(f"normalize: expected one of {expected}, got {normalize!r}")
        if not separator:
            raise ValueError("separator: expected at least one character, got ''")
        if (symbols is None) != (mode == "bytes"):
            what = "no symbols (all 256 bytes are there)" if mode == "bytes" else "symbols"
            raise ValueError(f"symbols: mode {mode!r} expects {what}")
        own = BYTE_SYMBOLS if symbols is None else tuple(symbols)
        if mode != "bytes":
            _check_symbols(own, mode, separator)
        self._symbols = self.SPECIAL + own
        # Of the symbols proper only, so that no text can spell a special id.
        self._ids = {symbol: i for i, symbol in enumerate(own, start=len(self.SPECIAL))}
        self._mode: Mode = mode
        self._separator = separator
        self._normalize = normalize
        self._lowercase = lowercase
        if mode == "separated" and self._normal(separator) != separator:
            # Of which there would be none left in any text.
            changed = "lower-casing and normalisation"
            raise ValueError(f"separator: expected one that {changed} keep, got {separator!r}")
        # JSON knows no numbers of numpy's or torch's.
        self._counts = None if counts is None else tuple(map(int, counts))
        if self._counts is not None and len(self._counts) != len(self):
            raise ValueError(f"counts: expected {len(self)} numbers, got {len(self._counts)}")

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        mode: Mode = "chars",
        separator: str = " ",
        normalize: Normalization | None = None,
        lowercase: bool = False,
        min_count: int = 1,
    ) -> Vocabulary:
        """The vocabulary of `texts`: every symbol seen at least `min_count` times, sorted.

        The order of the texts makes no difference. Rarer symbols count as <unk>.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected several texts, got one str; wrap it in a list")
        # A vocabulary without symbols splits texts just as the one to be built will.
        splitter = cls(
            None if mode == "bytes" else (),
            mode=mode,
            separator=separator,
            normalize=normalize,
            lowercase=lowercase,
        )
        seen: Counter[str] = Counter()
        for text in texts:
            seen.update(splitter.split(text))
        if mode == "bytes":
            own = BYTE_SYMBOLS
        else:
            own = tuple(sorted(s for s, n in seen.items() if n >= min_count))
        known = [seen[s] for s in own]
        unknown = seen.total() - sum(known)
        return cls(
            None if mode == "bytes" else own,
            mode=mode,
            separator=separator,
            normalize=normalize,
            lowercase=lowercase,
            counts=[0, 0, 0, unknown, *known],
        )

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol, the four special ones first, so that `symbols[id]` is its name."""
        return self._symbols

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def counts(self) -> tuple[int, ...] | None:
        """How often each id was seen when the vocabulary was built, if known."""
        return self._counts

    def __len__(self) -> int:
        return len(self._symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._ids

    def split(self, text: str) -> list[str]:
        """The symbols of `text`, known or not, after lower-casing and normalisation."""
        if not isinstance(text, str):
            raise TypeError(f"text: expected str, got {type(text).__name__}")
        text = self._normal(text)
        if self._mode == "chars":
            return list(text)
        if self._mode == "bytes":
            # Lone surrogates, which Python strings may hold, are no reason to stop either.
            return [BYTE_SYMBOLS[b] for b in text.encode("utf-8", "surrogatepass")]
        if "\n" not in self._separator:
            text = text.replace("\n", f"{self._separator}\n{self._separator}")
        return [s for s in text.split(self._separator) if s]

    def _normal(self, text: str) -> str:
        if self._lowercase:
            text = text.lower()
        return text if self._normalize is None else unicodedata.normalize(self._normalize, text)

    def join(self, symbols: Iterable[str]) -> str:
        """The text of `symbols`, the inverse of `split`.

        In mode `"bytes"`, what is not UTF-8 becomes U+FFFD, as does a symbol that is no byte.
        """
        return "".join(self._pieces(symbols))

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`, <unk> where a symbol is unknown; <bos> and <eos> on demand."""
        get, unknown = self._ids.get, self.unk_id
        ids = [get(symbol, unknown) for symbol in self.split(text)]
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` up to the first <eos>; <pad> and <bos> are skipped.

        <unk> reads U+FFFD, in mode `"separated"` `<unk>`. `ids` may be a 1-d tensor.
        Raises `ValueError` for an id that is not in the vocabulary.
        """
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int], *, after: str = "") -> Iterator[str]:
        """`decode` piece by piece: text comes out as soon as `ids` complete it.

        The pieces join to what `decode` gives; a character of several bytes comes whole. They go on
        from the text `after`, if there is any: a separator parts them from it, unless it ends in
        one, or a line does.
        """
        apart = bool(after) and not after.endswith((self._separator, "\n"))
        return self._pieces(self._symbols_of(ids), apart=apart)

    def _symbols_of(self, ids: Iterable[int]) -> Iterator[str]:
        for i in ids:
            index = int(i)
            if not 0 <= index < len(self):
                raise ValueError(f"ids: expected 0 to {len(self) - 1}, got {index}")
            if index == self.eos_id:
                return
            if index == self.unk_id:
                yield self.SPECIAL[index] if self._mode == "separated" else "\ufffd"
            elif index > self.unk_id:
                yield self._symbols[index]

    def _pieces(self, symbols: Iterable[str], *, apart: bool = False) -> Iterator[str]:
        if self._mode == "chars":
            yield from symbols
        elif self._mode == "separated":
            for symbol in symbols:
                yield self._separator + symbol if apart and symbol != "\n" else symbol
                apart = symbol != "\n"
        else:
            utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
            for symbol in symbols:
                # 0xFF is in no UTF-8 text, so that it comes out as U+FFFD.
                if piece := utf8.decode(bytes([_BYTE_OF.get(symbol, 0xFF)])):
                    yield piece
            if rest := utf8.decode(b"", final=True):
                yield rest

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, in types that JSON has; `from_dict` is the inverse."""
        own = self._symbols[len(self.SPECIAL) :]
        return {
            "mode": self._mode,
            "separator": self._separator,
            "normalize": self._normalize,
            "lowercase": self._lowercase,
            "symbols": None if self._mode == "bytes" else list(own),
            "counts": None if self._counts is None else list(self._counts),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Vocabulary:
        """Raises `ValueError` if `values` lacks an entry or has one too many."""
        expected = {"mode", "separator", "normalize", "lowercase", "symbols", "counts"}
        if set(values) != expected:
            raise ValueError(f"vocabulary: expected {sorted(expected)}, got {sorted(values)}")
        options = dict(values)
        return cls(options.pop("symbols"), **options)

    def _key(self) -> tuple[object, ...]:
        return self._symbols, self._mode, self._separator, self._normalize, self._lowercase

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} symbols, mode={self._mode!r})"


def _check_symbols(symbols: tuple[str, ...], mode: Mode, separator: str) -> None:
    repeated = [s for s, n in Counter(symbols).items() if n > 1]
    if repeated:
        raise ValueError(f"symbols: expected each one once, got several {repeated[0]!r}")
    for symbol in symbols:
        if mode == "chars" and len(symbol) != 1:
            raise ValueError(f"symbols: mode 'chars' expects one code point, got {symbol!r}")
        if mode == "separated" and (not symbol or separator in symbol):
            raise ValueError(f"symbols: expected no {separator!r} and not '', got {symbol!r}")
        alone = "\n" not in symbol or symbol == "\n" or "\n" in separator
        if mode == "separated" and not alone:
            raise ValueError(f"symbols: expected a line end to be one by itself, got {symbol!r}")
