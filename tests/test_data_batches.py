"""Batches: everything once an epoch, nearly without padding, in an order that the seed decides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_data import few_pairs

from fastchar.text import Vocabulary, pad
from fastchar.training.batches import PairBatch, PairLoader, Ragged, TextLoader

SEQUENCES = st.lists(st.lists(st.integers(4, 30), min_size=1, max_size=9), min_size=1, max_size=40)


def _loader(batch_size: int = 16, seed: int | None = 1, pool: int = 4) -> PairLoader:
    pairs = few_pairs()
    source = Vocabulary.build(s for s, _ in pairs)
    target = Vocabulary.build((t for _, t in pairs), mode="separated")
    return PairLoader(
        Ragged([source.encode(s, eos=True) for s, _ in pairs]),
        Ragged([target.encode(t, bos=True, eos=True) for _, t in pairs]),
        batch_size,
        seed=seed,
        pool=pool,
    )


def _order(batches: list[PairBatch]) -> list[list[int]]:
    return [batch.which.tolist() for batch in batches]


@given(SEQUENCES, st.data())
def test_ragged_pads_as_the_plain_way_does(sequences: list[list[int]], data: st.DataObject) -> None:
    """The same tensors as `fastchar.text.pad`, for any choice of sequences."""
    chosen = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=12))
    ids, lengths = Ragged(sequences).pad(torch.tensor(chosen))
    expected_ids, expected_lengths = pad([sequences[i] for i in chosen])
    assert torch.equal(ids, expected_ids)
    assert torch.equal(lengths, expected_lengths)
    assert ids.is_contiguous()


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
def test_every_pair_once_an_epoch(batch_size: int, seed: int | None) -> None:
    """As many batches as `len` says, all full but one, and no pair twice or never."""
    loader = _loader(batch_size, seed)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader)
        seen = [i for which in _order(batches) for i in which]
        assert sorted(seen) == list(range(len(few_pairs())))
        sizes = sorted(len(which) for which in _order(batches))
        assert sizes[1:] == [batch_size] * (len(batches) - 1)


def test_batch_is_what_it_says() -> None:
    """Time-major ids of the pairs `which` says, ends marked, and lengths that count them."""
    loader = _loader()
    batch = next(iter(loader))
    for column, i in enumerate(batch.which.tolist()):
        S, T = batch.source_lengths[column], batch.target_lengths[column]
        source, target = batch.source[:, column], batch.target[:, column]
        assert len(few_pairs()[i][0]) + 1 == S
        assert source[S - 1] == Vocabulary.eos_id
        assert (source[S:] == Vocabulary.pad_id).all()
        assert len(few_pairs()[i][1].split(" ")) + 2 == T
        assert (target[0], target[T - 1]) == (Vocabulary.bos_id, Vocabulary.eos_id)
        assert (target[T:] == Vocabulary.pad_id).all()
    assert batch.source.shape[0] == batch.source_lengths.max()
    assert batch.target.shape[0] == batch.target_lengths.max()


def test_lengths_in_a_batch_are_alike() -> None:
    """Bucketed, at least 85 % of a batch is not padding; at random it is far less."""

    def filled(batches: list[PairBatch]) -> float:
        cells = sum(b.source.numel() + b.target.numel() for b in batches)
        return sum(int(b.source_lengths.sum() + b.target_lengths.sum()) for b in batches) / cells

    assert filled(list(_loader(pool=20))) > 0.85
    loader = _loader()
    assert filled(list(PairLoader(loader.source, loader.target, 16, seed=1))) > 0.85
    assert filled(list(_loader(pool=1))) < 0.75


def test_order_by_seed_and_epoch() -> None:
    """The seed and the epoch decide the order; each epoch has another one, not sorted by length."""
    one, other = _loader(seed=5), _loader(seed=5)
    first, second = _order(list(one)), _order(list(one))
    assert first == _order(list(other))
    assert first != second
    assert second == _order(list(other))
    other = _order(list(_loader(seed=6)))
    assert other not in (first, second)
    lengths = [b.source.shape[0] for b in _loader(seed=5)]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


@pytest.mark.parametrize("done", [0, 1, 5, 18])
def test_goes_on_from_anywhere(done: int) -> None:
    """The state after `done` batches, in another loader: the rest of the epoch, and the next."""
    loader = _loader()
    whole = [*_order(list(loader)), *_order(list(loader))]
    loader = _loader()
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    other = _loader()
    other.load_state_dict(loader.state_dict())
    rest = _order(list(other))
    assert [*rest, *_order(list(other))][: len(whole) - done] == whole[done:]
    assert len(rest) == (len(loader) - done if done < len(loader) else len(loader))


@given(st.integers(2, 80), st.integers(1, 9), st.integers(1, 9))
def test_text_streams_go_on(length: int, batch_size: int, chunk: int) -> None:
    """Chunks of a stream join to a stretch of the text, targets are one ahead, no gaps between
    streams, and fewer than `batch_size` symbols are left out."""
    text = torch.arange(length)
    if length <= batch_size:
        with pytest.raises(ValueError, match=f"at least {batch_size + 1}"):
            TextLoader(text, batch_size, chunk)
        return
    loader = TextLoader(text, batch_size, chunk)
    batches = list(loader)
    assert len(batches) == len(loader)
    ids = torch.cat([b.ids for b in batches])  # [T, B]
    targets = torch.cat([b.targets for b in batches])
    assert torch.equal(ids.t().flatten(), text[: ids.numel()])
    assert torch.equal(targets, ids + 1)
    assert length - 1 - batch_size < ids.numel() <= length - 1
    assert [b.first for b in batches] == [True] + [False] * (len(batches) - 1)
    assert all(b.ids.shape[0] == chunk for b in batches[:-1])
