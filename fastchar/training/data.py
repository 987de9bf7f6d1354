"""What the models learn from, read, split, encoded and handed to Lightning as loaders."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from fastchar.analysis.unseen import Unseen
from fastchar.files import (
    InputError,
    Pair,
    name_of,
    read_pairs,
    read_text,
    write_beside,
)
from fastchar.models import CharLM, Seq2Seq
from fastchar.text import Vocabulary
from fastchar.text.vocabulary import Normalization
from fastchar.training.batches import Loader, PairLoader, Ragged, TextLoader
from fastchar.training.config import Config
from fastchar.training.initial import initial_model
from fastchar.training.splits import references_of, split_by_source

Content = list[Pair] | str  # pairs, or a text

# As many symbols as the kernels are made for: more tell that targets are sentences of words.
MOST_SEPARATED = 512


class _Data(LightningDataModule):
    """Loaders whose position travels in the checkpoint, tied to the data they were made of."""

    fingerprint: int
    settings: dict[str, int]  # that make the batches what they are, by which a run is counted
    train: Any  # a Loader
    dev: Any
    # What to say of symbols to train on that the model to begin from lacks, if there are any.
    unseen: str | None = None

    def train_dataloader(self) -> Loader:
        return self.train

    def val_dataloader(self) -> Loader:
        return self.dev

    def state_dict(self) -> dict[str, Any]:
        return {
            "train": self.train.state_dict(),
            "fingerprint": self.fingerprint,
            "settings": self.settings,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train.load_state_dict(state_dict["train"])


class PairData(_Data):
    """Pairs to train on, and held-out sources with all of their references.

    ``dev_words`` bounds the sources that :attr:`dev` reads; each is paired with its first
    reference, for the loss, and :attr:`dev_references` has all, for the error rates.
    """

    def __init__(
        self,
        train: Sequence[Pair],
        dev: Sequence[Pair],
        source: Vocabulary,
        target: Vocabulary,
        *,
        batch_size: int,
        seed: int,
        dev_words: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.references = references_of(dev)
        words = list(self.references)
        if 0 < dev_words < len(words):
            # The same for every seed, or two of them could not be compared.
            generator = torch.Generator().manual_seed(1)
            chosen = torch.randperm(len(words), generator=generator)[:dev_words]
            words = [words[i] for i in chosen.sort().values.tolist()]
        self.dev_references = [[target.split(r) for r in self.references[word]] for word in words]
        first = [(word, self.references[word][0]) for word in words]
        self.train = PairLoader(*self._encode(train), batch_size, seed=seed)
        self.dev = PairLoader(*self._encode(first), max(batch_size, 256), seed=None)
        self.settings = {"batch_size": batch_size, "seed": seed, "dev_words": len(words)}
        self.fingerprint = zlib.crc32(repr((train, dev)).encode())

    def _encode(self, pairs: Sequence[Pair]) -> tuple[Ragged, Ragged]:
        return (
            Ragged([self.source.encode(s, eos=True) for s, _ in pairs]),
            Ragged([self.target.encode(t, bos=True, eos=True) for _, t in pairs]),
        )


class TextData(_Data):
    """A text to train on and a held-out one, as streams."""

    def __init__(
        self, train: str, dev: str, vocabulary: Vocabulary, *, batch_size: int, chunk: int
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.train = TextLoader(self._encode(train), batch_size, chunk)
        dev_ids = self._encode(dev)
        # As few streams as fill whole chunks: each begins without knowing what came before it.
        streams = min(batch_size, max(1, dev_ids.numel() // (4 * chunk)))
        self.dev = TextLoader(dev_ids, streams, chunk)
        self.settings = {"batch_size": batch_size, "chunk": chunk}
        self.fingerprint = zlib.crc32(repr((train, dev)).encode())

    def _encode(self, text: str) -> torch.Tensor:
        return torch.tensor(self.vocabulary.encode(text), dtype=torch.int64)


def vocabularies(pairs: Sequence[Pair], config: Config) -> tuple[Vocabulary, Vocabulary]:
    """The vocabularies of sources and targets, by the modes that ``config`` names."""
    mode = config.target_mode
    if mode == "auto":
        symbols = {symbol for _, target in pairs for symbol in target.split(" ")}
        several = sum(" " in target.strip(" ") for _, target in pairs)
        separated = 2 * several > len(pairs) and len(symbols) <= MOST_SEPARATED
        mode = "separated" if separated else "chars"
    return (
        Vocabulary.build(
            (s for s, _ in pairs), mode=config.source_mode, normalize=config.normalize
        ),
        Vocabulary.build((t for _, t in pairs), mode=mode, normalize=config.normalize),
    )


def read_data(config: Config) -> tuple[Content, Content | None]:
    """The files ``config.data`` and ``config.dev``: pairs or text. Raises :class:`InputError`."""

    def read(path: str) -> Content:
        return read_pairs(path) if config.model == "seq2seq" else read_text(path)

    return read(config.data), None if config.dev is None else read(config.dev)


def make_data(
    config: Config, content: Content, held_out: Content | None = None
) -> PairData | TextData:
    """What :func:`read_data` read, encoded; without ``held_out``, that is a part of ``content``.

    Raises :class:`InputError`.
    """
    initial = initial_model(config.init_from)
    if isinstance(content, str):
        assert not isinstance(held_out, list)
        assert not isinstance(initial, Seq2Seq)
        return _text_data(config, content, held_out, initial)
    assert not isinstance(held_out, str)
    assert not isinstance(initial, CharLM)
    if initial is None:
        reader = Vocabulary.build([], mode=config.source_mode, normalize=config.normalize)
    else:
        reader = initial.source
    content = _normalized(content, reader, config.normalize)
    if held_out is None:
        train, dev = _hold_out(config, content)
    else:
        train, dev = content, _normalized(held_out, reader, config.normalize)
    if initial is None:
        source, target = vocabularies(train, config)
    else:
        source, target = initial.source, initial.target
    data = PairData(
        train,
        dev,
        source,
        target,
        batch_size=config.batch_size,
        seed=config.seed,
        dev_words=config.dev_words,
    )
    if initial is not None:
        data.unseen = _unseen(source, (s for s, _ in train))
        if line := _unseen(target, (t for _, t in train)):
            raise InputError(
                f"{name_of(config.data)}: expected targets of the symbols that the model in "
                f"{config.init_from} writes, got others: {line}"
            )
    return data


def _unseen(vocabulary: Vocabulary, texts: Iterable[str]) -> str | None:
    unseen = Unseen(vocabulary)
    for text in texts:
        unseen.add(text)
    return unseen.line()


def _normalized(pairs: list[Pair], reader: Vocabulary, form: Normalization | None) -> list[Pair]:
    """Sources as the model will read them by ``reader``, so that two spellings of one, by another
    normal form or with blanks more or less between separated symbols, are one source, on one side
    of the split; and targets in the normal form."""
    return [
        (
            reader.join(reader.split(source)),
            target if form is None else unicodedata.normalize(form, target),
        )
        for source, target in pairs
    ]


def _hold_out(config: Config, pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    sources = list(references_of(pairs))
    if len(sources) < 2:
        raise InputError(
            f"{name_of(config.data)}: expected two sources or more, some of them to hold out, got "
            f"{len(sources)}; give held-out pairs with --dev"
        )
    train, dev = split_by_source(pairs, (95, 5), salt="held out")
    if train and dev:
        return train, dev
    # So few that all are on one side.
    one = min(sources, key=lambda source: zlib.crc32(source.encode()))
    return [p for p in pairs if p[0] != one], [p for p in pairs if p[0] == one]


def _text_data(config: Config, train: str, dev: str | None, initial: CharLM | None) -> TextData:
    if dev is None:
        cut = len(train) - len(train) // 10
        train, dev = train[:cut], train[cut:]
    if initial is None:
        vocabulary = Vocabulary.build([train], mode=config.source_mode, normalize=config.normalize)
    else:
        vocabulary = initial.vocabulary
    # Every stream needs two symbols: one to read and one to predict.
    for part, path, what, least in (
        (train, config.data, "training", 2 * config.batch_size),
        (dev, config.dev or config.data, "held-out", 2),
    ):
        if (got := len(vocabulary.split(part))) < least:
            raise InputError(f"{name_of(path)}: expected {least} {what} symbols or more, got {got}")
    data = TextData(train, dev, vocabulary, batch_size=config.batch_size, chunk=config.chunk)
    if initial is not None:
        data.unseen = _unseen(vocabulary, [train])
    return data


def write_data(content: Content, path: Path) -> None:
    """Write one of what :func:`read_data` read so that it reads it again."""
    with write_beside(path) as stream:
        if isinstance(content, str):
            stream.write(content)
        else:
            stream.writelines(f"{source}\t{target}\n" for source, target in content)
