"""CMUdict as ids: the words of the seq2seq benchmarks."""

from functools import lru_cache

import torch

from fastchar import Vocabulary

from .twin import Pair


@lru_cache(maxsize=1)
def pronunciations() -> tuple[list[Pair], Vocabulary, Vocabulary]:
    """All pairs of a word and its phones, and the two vocabularies."""
    # Imported only here: Lightning comes with it, which the other groups do without.
    from fastchar.demo import dictionary

    texts = dictionary()
    source = Vocabulary.build(word for word, _ in texts)
    target = Vocabulary.build((phones for _, phones in texts), mode="separated")
    pairs = [
        (
            torch.tensor(source.encode(word, eos=True)),
            torch.tensor(target.encode(phones, bos=True, eos=True)),
        )
        for word, phones in texts
    ]
    return pairs, source, target
